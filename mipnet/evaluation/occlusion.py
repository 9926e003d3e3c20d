"""The occlusion AP: the metric by which checkpoints and networks are ranked, one for each data set.

It covers only people who are hard to tell apart, because on a whole data set the differences between these
networks are as small as the spread between runs (method note).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mipnet.config.schema import DataConfig

SELECTION_METRIC = "validation_occlusion_AP"
"""Name of a checkpoint's occlusion AP in the logs and in the run's state; it selects the checkpoint."""

HARD_SPLIT = "hard"  # the generated benchmark's split of people who hide each other
OCCLUSION_METRIC = {"coco": "AP_overlap", "crowdpose": "AP_hard", "ochuman": "AP"}  # by data set format


@dataclass(frozen=True)
class OcclusionAP:
    """The occlusion AP, and which metric of which data it is.

    Attributes:
        value: 0 to 1; nan if there are no metrics at all.
        metric, split, source: the metric, its split and box source; always of the merged poses.
    """

    value: float
    metric: str
    split: str
    source: str

    @property
    def name(self) -> str:
        """Label in tables, summary and report."""
        if not self.metric:
            return "occlusion AP"
        meaning = ": people with a neighbour above box IoU 0.3" if self.metric == "AP_overlap" else ""
        return f"occlusion AP ({self.metric} of {self.split} in {self.source} boxes{meaning})"


def occlusion_ap(data: DataConfig, metrics: Mapping[str, float]) -> OcclusionAP:
    """The occlusion AP of a data set, of the merged poses in the boxes of the last source.

    - generated: AP of the split hard (while training: of the validation split)
    - CrowdPose: AP_hard, the images with crowdIndex >= 0.8
    - OCHuman: AP, since all of its people are occluded
    - COCO and data sets in its format: AP_overlap, the people whose box has IoU > 0.3 with another's

    Of several splits the last counts. Without such people it is the AP of all people, and ``metric`` says so.

    Args:
        data: the data set.
        metrics: ``split/source/instance_mode/metric`` -> value, in the order of the table; other keys are
            ignored.
    """
    rows = [tuple(name.split("/")[:2]) for name in metrics if name.count("/") == 3 and "/merged/" in name]
    if not rows:
        return OcclusionAP(math.nan, "", "", "")
    hard = [row for row in rows if row[0] == HARD_SPLIT] if data.generated else []
    split, source = (hard or rows)[-1]
    preferred = "AP" if data.generated else OCCLUSION_METRIC[data.format]
    for metric in (preferred, "AP"):
        value = metrics.get(f"{split}/{source}/merged/{metric}", math.nan)
        if not math.isnan(value):
            break
    return OcclusionAP(value, metric, split, source)
