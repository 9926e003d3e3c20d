"""The rule for promotion: neither the occlusion AP nor the easy AP may fall by more than a tolerance.

The default tolerance is the difference between two seeds of one training. Seeds 0 and 1 of the preset tiny
and of its baseline differ by 0.6, 0.6, 0.8 and 1.3 AP on the 882 people of the split hard (each network,
detector-like and ground-truth boxes) and by 1.6 on easy: root mean square 1.06. It shrinks with the square
root of the number of people, like the error of a mean, down to the difference between the networks
themselves: the paper's standard deviation of 0.16 to 0.19 AP over runs, times √2 for two of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.config.schema import DataConfig
from mipnet.evaluation.crowdpose import crowd_levels
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.overlap import overlapped_people
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.evaluation.result_rows import current_metric_names
from mipnet.formats import aligned

SEED_NOISE, SEED_PEOPLE = 1.0, 900
"""AP points by which two seeds of one training differ, and the number of people of that measurement."""
LEAST_NOISE = 0.25
"""AP points; lower bound for any number of people."""

EASY_SPLIT = "easy"
EASY_METRIC = {"coco": "AP", "crowdpose": "AP_easy"}
"""By data set format; OCHuman has no easy people."""


@dataclass(frozen=True)
class Figure:
    """One of the two metrics that decide, of both networks.

    Attributes:
        kind: "occlusion AP" or "easy AP".
        split, source, metric: the metric, its split and box source; of merged poses.
        champion: AP points, 0 to 100; nan if there is no champion.
        candidate: AP points, 0 to 100.
        tolerance: AP points by which it may fall.
    """

    kind: str
    split: str
    source: str
    metric: str
    champion: float
    candidate: float
    tolerance: float

    @property
    def difference(self) -> float:
        return self.candidate - self.champion

    @property
    def fell(self) -> bool:
        return self.difference < -self.tolerance

    @property
    def line(self) -> str:
        name = f"{self.kind} ({self.metric} of {self.split} in {self.source} boxes)"
        if math.isnan(self.champion):
            return f"{name}: {self.candidate:.1f}"
        return (
            f"{name}: {self.champion:.1f} -> {self.candidate:.1f} ({self.difference:+.2f}, "
            f"may fall by {self.tolerance:.2f}{': too much' if self.fell else ''})"
        )


@dataclass(frozen=True)
class Judgement:
    """The metrics that decide, and what the evaluation lacks; accepted if ``reason`` is empty."""

    figures: tuple[Figure, ...]
    missing: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Reason of the rejection, as one clause; "" if accepted."""
        if self.missing:
            return f"the evaluation is not complete: it lacks {', '.join(self.missing)}"
        return " and ".join(
            f"{figure.kind} falls by {-figure.difference:.2f} (tolerance {figure.tolerance:.2f})"
            for figure in self.figures
            if figure.fell
        )

    @property
    def lines(self) -> list[str]:
        return [figure.line for figure in self.figures]


def judge(
    data: DataConfig,
    candidate: Mapping[str, float],
    champion: Mapping[str, float] | None,
    annotations: Mapping[str, Mapping[str, Any]],
    tolerance: float | None = None,
) -> Judgement:
    """Compare the metrics of two networks on the same data.

    Args:
        data: the data set.
        candidate, champion: ``split/source/instance_mode/metric`` -> value, 0 to 1; no champion is None.
        annotations: split -> its annotations, for the number of people behind a metric.
        tolerance: AP points by which a metric may fall; by default ``seed_noise`` of its number of people.
    """
    missing = [
        f"{split} in {source} boxes"
        for split in data.evaluate
        for source in (name.partition("=")[0] for name in data.boxes)
        if f"{split}/{source}/merged/AP" not in candidate
    ]
    hard = occlusion_ap(data, candidate)
    deciding = {"occlusion AP": (hard.split, hard.source, hard.metric)}
    if data.generated or data.format in EASY_METRIC:
        deciding["easy AP"] = easy_ap(data, candidate)
    figures = []
    for kind, (split, source, metric) in deciding.items():
        key = f"{split}/{source}/merged/{metric}"
        after = candidate.get(key, math.nan)
        before = math.nan if champion is None else champion.get(key, math.nan)
        if math.isnan(after):
            missing.append(kind)
        elif champion is not None and math.isnan(before):
            missing.append(f"the champion's {kind}")
        else:
            noise = seed_noise(people_behind(metric, annotations[split]))
            allowed = noise if tolerance is None else tolerance
            figures.append(Figure(kind, split, source, metric, 100 * before, 100 * after, allowed))
    return Judgement(tuple(figures), tuple(missing))


def easy_ap(data: DataConfig, metrics: Mapping[str, float]) -> tuple[str, str, str]:
    """(split, source, metric) of the AP of easily separable people, preferably in ground-truth boxes.

    - generated: AP of the split easy
    - CrowdPose: AP_easy, the images of crowdIndex up to 0.2
    - COCO and data sets in its format: AP of all people, few of whom are occluded

    Of several splits the last counts; ("", "", metric) if there is no such metric.

    Args:
        data: the data set; not OCHuman.
        metrics: as in ``judge``.
    """
    metric = "AP" if data.generated else EASY_METRIC[data.format]
    lines = [name.split("/")[:2] for name in metrics if name.endswith(f"/merged/{metric}")]
    if data.generated:
        lines = [line for line in lines if line[0] == EASY_SPLIT]
    lines = [line for line in lines if line[1] == "gt"] or lines
    split, source = lines[-1] if lines else ("", "")
    return split, source, metric


def seed_noise(people: int) -> float:
    """AP points by which two seeds of one training differ on a number of people.

    1.0 for the generated benchmark, 0.29 for COCO's val2017 (11 004 people).
    """
    return max(LEAST_NOISE, SEED_NOISE * math.sqrt(SEED_PEOPLE / max(people, 1)))


def people_behind(metric: str, annotations: Mapping[str, Any]) -> int:
    """Number of people that a metric covers."""
    people = [a for a in annotations["annotations"] if not a.get("iscrowd") and a.get("num_keypoints", 1)]
    if metric == "AP_overlap":
        everybody = [{"iscrowd": 0, "num_keypoints": 1, **a} for a in annotations["annotations"]]
        return len(overlapped_people(everybody))
    if metric in ("AP_easy", "AP_hard"):
        images = set(crowd_levels(annotations)[metric.removeprefix("AP_")])
        return sum(a["image_id"] in images for a in people)
    return len(people)


def comparison_table(data: DataConfig, names: Sequence[str], metrics: Sequence[Mapping[str, float]]) -> str:
    """Metrics of merged poses: a row for each split, box source and network, and the difference of two.

    Args:
        data: the data set.
        names: of the networks.
        metrics: of each, as in ``judge``; shown in percent, "-" for nan.
    """
    columns = METRIC_NAMES[data.protocol]
    both = [current_metric_names(one) for one in metrics]  # kept metrics may be of an older version
    merged = [name for one in both for name in one if "/merged/" in name]
    rows: list[tuple[str, ...]] = [("split", "boxes", "model", *columns)]
    for pair in dict.fromkeys(tuple(name.split("/")[:2]) for name in merged):
        keys = ["/".join([*pair, "merged", metric]) for metric in columns]
        values = [[100 * one.get(key, math.nan) for key in keys] for one in both]
        for name, row in zip(names, values, strict=True):
            rows.append((*pair, name, *(_number(v, "") for v in row)))
        if len(values) == 2:
            changes = [after - before for before, after in zip(*values, strict=True)]
            rows.append((*pair, "difference", *(_number(v, "+") for v in changes)))
    text = aligned(rows, 3)
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)


def _number(value: float, sign: str) -> str:
    return "-" if math.isnan(value) else f"{round(value, 1) + 0.0:{sign}.1f}"  # + 0.0: there is no -0.0
