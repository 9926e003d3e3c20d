"""A network of a few thousand parameters, for tests that train or run one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mipnet.config import Config, preset

HRNET = {"width": 8, "num_modules": (1,), "blocks": 1, "stem_channels": 8, "stage1_blocks": 1}
"""An HRNet of two branches, 8 channels wide."""


def tiny(**sections: Any) -> Config:
    """That with N = 2 and a MIMB at both places, on crops of 32x48 px, with more settings on top.

    In one part and evaluated in fp32, on any machine; made without pydantic (``tests/test_gpu_machine.py``).
    """
    small: dict[str, dict[str, Any]] = {
        "model": {**HRNET, "mimb_stages": (1, 2)},
        "input": {"width": 32, "height": 48},
        "train": {"gradient_accumulation_steps": 1},
        "evaluation": {"precision": "fp32"},
    }
    config = preset("debug")
    for name, settings in (*small.items(), *sections.items()):
        fitting = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        config = replace(config, **{name: replace(getattr(config, name), **fitting)})
    return config
