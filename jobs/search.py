"""Cluster job: ``python tune/search.py`` with the same flags."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "tune" / "search.py"), run_name="__main__")
