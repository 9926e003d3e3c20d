"""Cluster job: ``mipnet evaluate`` with the same flags."""

import sys

from mipnet.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
