"""``python -m mipnet``."""

from mipnet.cli.main import entry

entry()
