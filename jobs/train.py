"""Cluster job: ``mipnet train`` with the same flags."""

import sys

from mipnet.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
