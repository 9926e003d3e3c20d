"""Cluster job: ``mipnet data pack`` with the same flags."""

import sys

from mipnet.cli import main

sys.exit(main(["data", "pack", *sys.argv[1:]]))
