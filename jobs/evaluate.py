"""Cluster job: ``mipnet evaluate`` with the same flags."""

from mipnet.cli.main import entry

entry("evaluate")
