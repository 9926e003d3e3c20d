"""Cluster job: ``mipnet evaluate`` with the same flags."""

import sys

from mipnet.cli.main import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
