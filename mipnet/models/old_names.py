"""Names that ``model.json`` had for arguments of ``build_model``; files with them stay readable for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLD_ARGUMENTS = {"num_joints": "num_keypoints", "places": "mimb_stages", "modules": "num_modules"}


def with_new_names(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of a ``model.json``, whichever names it was written with."""
    return {OLD_ARGUMENTS.get(name, name): value for name, value in architecture.items()}
