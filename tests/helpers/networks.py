"""A network of a few thousand parameters, for tests that train or run one."""

from __future__ import annotations

from typing import Any

from mipnet.config import Config, from_dict, preset

HRNET = {"width": 8, "num_modules": [1], "blocks": 1, "stem_channels": 8, "stage1_blocks": 1}
"""An HRNet of two branches, 8 channels wide."""


def tiny(**sections: Any) -> Config:
    """That with N = 2 and a MIMB at both places, on crops of 32x48 px, with more settings on top.

    In one part and evaluated in fp32, on any machine.
    """
    small = {
        "model": {**HRNET, "mimb_stages": [1, 2]},
        "input": {"width": 32, "height": 48},
        "train": {"gradient_accumulation_steps": 1},
        "evaluation": {"precision": "fp32"},
    }
    return from_dict(sections, from_dict(small, preset("debug")))
