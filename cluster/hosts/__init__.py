"""What ``cluster/local.py`` is made of."""
