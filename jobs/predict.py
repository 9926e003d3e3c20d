"""Cluster job: ``mipnet predict`` with the same flags."""

from mipnet.cli.main import entry

entry("predict")
