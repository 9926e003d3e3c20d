"""The occlusion AP: the one figure by which checkpoints and networks are ranked on each data set.

Differences between these networks on a whole data set are as small as the spread between runs (method note),
so the figure is of the people who are hard to tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mipnet.config.schema import DataConfig

SCORE = "validation_occlusion_AP"
"""Under this name a checkpoint's occlusion AP is logged and kept."""

HARD = "hard"  # the generated benchmark's split of people who hide each other
METRIC = {"coco": "AP_overlap", "crowdpose": "AP_hard", "ochuman": "AP"}  # by layout


@dataclass(frozen=True)
class OcclusionAP:
    """The figure and what it is.

    Attributes:
        value: 0 to 1; nan if there are no figures at all.
        metric, split, source: which figure, of which people, in whose boxes; always of the merged poses.
    """

    value: float
    metric: str
    split: str
    source: str

    @property
    def name(self) -> str:
        """How tables, summary and report call it."""
        if not self.metric:
            return "occlusion AP"
        meaning = ": people with a neighbour above box IoU 0.3" if self.metric == "AP_overlap" else ""
        return f"occlusion AP ({self.metric} of {self.split} in {self.source} boxes{meaning})"


def occlusion_ap(data: DataConfig, metrics: Mapping[str, float]) -> OcclusionAP:
    """The occlusion AP of a data set, of merged poses in the boxes of the last source.

    - generated: AP of the split hard (while training: of the split that picks the checkpoint)
    - CrowdPose: AP_hard, the images of crowdIndex from 0.8
    - OCHuman: AP, since all of its people are occluded
    - COCO, and what has its layout: AP_overlap, the people with a neighbour above box IoU 0.3

    Of several splits the last counts. Where it has none of those people it is the AP of all, and says so.

    Args:
        data: which data set.
        metrics: ``split/source/view/metric`` -> value, in the order of the table; others are passed over.
    """
    lines = [tuple(name.split("/")[:2]) for name in metrics if name.count("/") == 3 and "/merged/" in name]
    if not lines:
        return OcclusionAP(math.nan, "", "", "")
    hard = [line for line in lines if line[0] == HARD] if data.generated else []
    split, source = (hard or lines)[-1]
    wanted = "AP" if data.generated else METRIC[data.layout]
    for metric in (wanted, "AP"):
        value = metrics.get(f"{split}/{source}/merged/{metric}", math.nan)
        if not math.isnan(value):
            break
    return OcclusionAP(value, metric, split, source)
