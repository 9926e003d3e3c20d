"""Cluster job: ``mipnet registry`` with the same words and flags, e.g. ``promote 3``."""

from mipnet.cli.main import entry

entry("registry")
