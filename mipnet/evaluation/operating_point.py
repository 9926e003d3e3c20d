"""The operating point of a model: from which scores on poses and joints are shown; of the best F1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mipnet.errors import UserError

OPERATING_POINT_KEY = "operating_point"
"""In the ``extra`` of a model.json."""


@dataclass(frozen=True)
class OperatingPoint:
    """Scores below which poses and joints are not shown. AP does not use them: it needs all poses.

    Attributes:
        pose_score: poses with a lower score are not kept; the score after box score and discount γ^λ.
        joint_score: joints with a lower score are not drawn.
        source: the box source of the validation split that both were chosen in.
    """

    pose_score: float
    joint_score: float
    source: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def operating_point_of(extra: Mapping[str, Any], where: str) -> OperatingPoint | None:
    """The operating point in the ``extra`` of a model.json; None if it has none.

    Args:
        extra: as from ``mipnet.models.weights.load_model``.
        where: it was read, for messages.

    Raises:
        UserError: it is none.
    """
    found = extra.get(OPERATING_POINT_KEY)
    if found is None:
        return None
    try:
        return OperatingPoint(float(found["pose_score"]), float(found["joint_score"]), str(found["source"]))
    except (TypeError, KeyError, ValueError):
        what = f"{where} has an operating point without pose_score, joint_score or source"
        raise UserError(what, f"copy the model again, or remove {OPERATING_POINT_KEY!r} from it") from None


def operating_point_line(point: OperatingPoint | None) -> str:
    """The operating point in one line."""
    if point is None:
        return "no operating point: all poses are kept"
    return (
        f"operating point: poses from score {point.pose_score:.3f}, joints from {point.joint_score:.3f} "
        f"(best F1 on the validation split in {point.source} boxes)"
    )
