"""``python -m mipnet``."""

import sys

from mipnet.cli.main import main

sys.exit(main())
