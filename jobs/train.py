"""Cluster job: ``mipnet train`` with the same flags."""

from mipnet.cli.main import entry

entry("train")
