"""Cluster job: ``mipnet data pack`` with the same flags."""

import sys

from mipnet.cli.main import main

sys.exit(main(["data", "pack", *sys.argv[1:]]))
