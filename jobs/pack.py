"""Cluster job: ``mipnet data pack`` with the same flags."""

from mipnet.cli.main import entry

entry("data", "pack")
