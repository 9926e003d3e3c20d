"""The templates of the reports."""

from __future__ import annotations

import tomllib
from pathlib import Path

import mipnet


def test_wheel_holds_every_file_that_is_no_python() -> None:
    package = Path(mipnet.__file__).parent
    settings = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {
        path
        for name, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in package.parent.joinpath(*name.split(".")).glob(pattern)
    }
    others = {path for path in package.rglob("*.*") if path.is_file() and not path.match("*.py*")}
    assert package / "visualization/templates/base.html.j2" in others
    assert others == named
