"""Cluster job: ``mipnet predict`` with the same flags."""

import sys

from mipnet.cli.main import main

sys.exit(main(["predict", *sys.argv[1:]]))
