"""Whether a candidate may take the champion's place: by two figures, and by how far each may fall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.config.schema import DataConfig
from mipnet.evaluation.crowdpose import EASY_BELOW, MEDIUM_BELOW
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.overlap import overlapped_people
from mipnet.evaluation.protocols import METRICS

SEED_NOISE, SEED_PEOPLE = 1.0, 900
"""AP points by which two seeds of one training differ, and over how many people that was measured.

Seeds 0 and 1 of the preset tiny and of its baseline differ by 0.6, 0.6, 0.8 and 1.3 on the 882 people of the
split hard (each network, detector-like and ground-truth boxes) and by 1.6 on easy: root mean square 1.06.
"""
LEAST_NOISE = 0.25
"""On however many people: the paper's standard deviation of 0.16 to 0.19 AP over runs, times √2 for two."""

EASY = "easy"
EASY_METRIC = {"coco": "AP", "crowdpose": "AP_easy"}
"""By layout; nobody in OCHuman is easy."""


@dataclass(frozen=True)
class Figure:
    """One of the two figures that decide.

    Attributes:
        kind: "occlusion AP" or "easy AP".
        metric, split, source: which figure, of whose poses, in whose boxes; "" where there is none.
        value: 0 to 1, nan where there is none.
    """

    kind: str
    metric: str
    split: str
    source: str
    value: float

    @property
    def name(self) -> str:
        return f"{self.kind} ({self.metric} of {self.split} in {self.source} boxes)"


@dataclass(frozen=True)
class Judged:
    """One figure of both.

    Attributes:
        figure: which.
        champion: its value, nan if there is no champion.
        candidate: its value.
        tolerance: by how much it may fall; all of them AP points, 0 to 100.
    """

    figure: Figure
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
        if math.isnan(self.champion):
            return f"{self.figure.name}: {self.candidate:.1f}"
        return (
            f"{self.figure.name}: {self.champion:.1f} -> {self.candidate:.1f} ({self.difference:+.2f}, "
            f"may fall by {self.tolerance:.2f}{': too much' if self.fell else ''})"
        )


@dataclass(frozen=True)
class Judgement:
    """Both figures, and what the evaluation lacks."""

    figures: tuple[Judged, ...]
    missing: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.missing and not any(figure.fell for figure in self.figures)

    @property
    def reason(self) -> str:
        """Why not, as one clause; "" if accepted."""
        if self.missing:
            return f"the evaluation is not complete: it lacks {', '.join(self.missing)}"
        fallen = [
            f"{j.figure.kind} falls by {-j.difference:.2f} (tolerance {j.tolerance:.2f})"
            for j in self.figures
            if j.fell
        ]
        return " and ".join(fallen)

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
    """Compare what two networks came to on the same data.

    Args:
        data: which.
        candidate, champion: ``split/source/view/metric`` -> value, 0 to 1; no champion is None.
        annotations: split -> its annotations, for the number of people behind a figure.
        tolerance: AP points by which a figure may fall; by default ``seed_noise`` of so many people.
    """
    missing = [
        f"{split} in {source} boxes"
        for split in data.evaluate
        for source in (name.partition("=")[0] for name in data.boxes)
        if f"{split}/{source}/merged/AP" not in candidate
    ]
    judged = []
    for kind, figure in figures(data, candidate).items():
        if math.isnan(figure.value):
            missing.append(kind)
            continue
        key = f"{figure.split}/{figure.source}/merged/{figure.metric}"
        before = math.nan if champion is None else champion.get(key, math.nan)
        if champion is not None and math.isnan(before):
            missing.append(f"the champion's {kind}")
            continue
        people = people_behind(data, figure.metric, annotations[figure.split])
        allowed = seed_noise(people) if tolerance is None else tolerance
        judged.append(Judged(figure, 100 * before, 100 * figure.value, allowed))
    return Judgement(tuple(judged), tuple(missing))


def figures(data: DataConfig, metrics: Mapping[str, float]) -> dict[str, Figure]:
    """The figures that decide, by kind: what the network is for, and that the rest does not suffer."""
    hard = occlusion_ap(data, metrics)
    found = {"occlusion AP": Figure("occlusion AP", hard.metric, hard.split, hard.source, hard.value)}
    if data.generated or data.layout in EASY_METRIC:
        found["easy AP"] = easy_ap(data, metrics)
    return found


def easy_ap(data: DataConfig, metrics: Mapping[str, float]) -> Figure:
    """AP of merged poses of people who are easy to tell apart, in ground-truth boxes where they are there.

    - generated: AP of the split easy
    - CrowdPose: AP_easy, the images of crowdIndex up to 0.2
    - COCO, and what has its layout: AP of all, of whom few are occluded

    Of several splits the last counts.

    Args:
        data: which data set; not OCHuman.
        metrics: as in ``judge``.
    """
    metric = "AP" if data.generated else EASY_METRIC[data.layout]
    lines = [tuple(name.split("/")[:2]) for name in metrics if name.endswith(f"/merged/{metric}")]
    if data.generated:
        lines = [line for line in lines if line[0] == EASY]
    lines = [line for line in lines if line[1] == "gt"] or lines
    if not lines:
        return Figure("easy AP", metric, "", "", math.nan)
    split, source = lines[-1]
    return Figure("easy AP", metric, split, source, metrics[f"{split}/{source}/merged/{metric}"])


def seed_noise(people: int) -> float:
    """AP points by which two seeds of one training differ where so many people are judged.

    It shrinks with the root of their number, as the error of any mean does, down to what differs between
    the networks themselves: 1.0 for the generated benchmark, 0.29 for COCO's val2017 (11 004 people).
    """
    return max(LEAST_NOISE, SEED_NOISE * math.sqrt(SEED_PEOPLE / max(people, 1)))


def people_behind(data: DataConfig, metric: str, annotations: Mapping[str, Any]) -> int:
    """How many people a figure is of."""
    people = [a for a in annotations["annotations"] if not a.get("iscrowd") and a.get("num_keypoints", 1)]
    if metric == "AP_overlap":
        everybody = [{"iscrowd": 0, "num_keypoints": 1, **a} for a in annotations["annotations"]]
        return len(overlapped_people(everybody))
    if metric in ("AP_easy", "AP_hard") and data.layout == "crowdpose":
        crowds = {image["id"]: image.get("crowdIndex", 0.0) for image in annotations["images"]}
        if metric == "AP_easy":
            return sum(crowds[a["image_id"]] < EASY_BELOW for a in people)
        return sum(crowds[a["image_id"]] >= MEDIUM_BELOW for a in people)
    return len(people)


def comparison_table(data: DataConfig, names: Sequence[str], metrics: Sequence[Mapping[str, float]]) -> str:
    """Merged poses of two networks: a line for each split, box source and network, and their difference.

    Args:
        data: what both were evaluated on.
        names: of the two.
        metrics: of each, as in ``judge``; values are shown in percent, "-" where nobody was.
    """
    columns = METRICS[data.protocol]
    lines = dict.fromkeys(tuple(name.split("/")[:2]) for one in metrics for name in one if "/merged/" in name)
    rows: list[tuple[str, ...]] = [("split", "boxes", "model", *columns)]
    for split, source in lines:
        values = [
            [100 * one.get(f"{split}/{source}/merged/{metric}", math.nan) for metric in columns]
            for one in metrics
        ]
        for name, mine in zip(names, values, strict=True):
            rows.append((split, source, name, *(_number(v, "") for v in mine)))
        if len(values) == 2:
            changes = [b - a for a, b in zip(*values, strict=True)]
            rows.append((split, source, "difference", *(_number(v, "+") for v in changes)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        text.append("  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(cells)))
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(line.rstrip() for line in text)


def _number(value: float, sign: str) -> str:
    return "-" if math.isnan(value) else f"{round(value, 1) + 0.0:{sign}.1f}"  # + 0.0: there is no -0.0
