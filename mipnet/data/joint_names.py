"""What the names of joints tell of them, where a data set says no more."""

from __future__ import annotations

from collections.abc import Sequence

from mipnet.data.categories import fold
from mipnet.skeletons import SKELETONS

UNKNOWN_SIGMA = 0.05
"""OKS constant of a joint of which nothing is known."""


def known_sigmas(joints: Sequence[str]) -> list[float | None]:
    """OKS constants of the built-in skeletons' joints of the same names; None for others."""
    known = {
        fold(joint): sigma
        for skeleton in reversed(SKELETONS.values())
        for joint, sigma in zip(skeleton.joints, skeleton.sigmas, strict=True)
    }
    return [known.get(fold(joint)) for joint in joints]


def mirrored_pairs(joints: Sequence[str]) -> list[tuple[int, int]]:
    """Indices (left, right) of the joints whose names differ in their side only."""
    folded = [fold(joint) for joint in joints]
    swapped = [name.replace("left", "right", 1) for name in folded]
    return [
        (i, folded.index(other)) for i, other in enumerate(swapped) if other != folded[i] and other in folded
    ]
