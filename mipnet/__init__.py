"""MIPNet on Ray: multi-instance top-down pose estimation, from generated scenes to a served model."""

__version__ = "0.1.0"
