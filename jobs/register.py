"""Cluster job: ``mipnet registry`` with the same words and flags, e.g. ``promote 3``."""

import sys

from mipnet.cli.main import main

sys.exit(main(["registry", *sys.argv[1:]]))
