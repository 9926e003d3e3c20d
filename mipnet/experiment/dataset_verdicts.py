"""Verdicts on what ``mipnet data check`` found: each figure is fine, worth a look, or stops a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mipnet.config import Config
from mipnet.data.annotation_statistics import RECALL_IOU, BoxStatistics, SplitStatistics
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.image_inspection import ImageInspection
from mipnet.data.joint_names import known_sigmas, mirrored_pairs
from mipnet.errors import first_few
from mipnet.skeletons import Skeleton

FINE, LOOK, STOP = "fine", "look at this", "will not train"
"""The verdicts, the best first."""
FEW_TO_TRAIN, FEW_TO_MEASURE = 100, 30
"""Fewer people are worth a look: in the split to train on, and in one to evaluate."""
MANY_BOXES = 100
"""More boxes an image are worth a look: each is a forward pass."""
LARGE_SIGMA = 0.15
"""A larger OKS constant is worth a look; COCO's largest is 0.107, of hips."""
LARGE_RATIO = 3
"""So is one that is so many times COCO's of the same joint."""
FIXES_HINT = "right if the file means that, else mend it there"
ODDITY_HINT = "mend them in the file: x and y in px of the image; v is 0 not labelled, 1 hidden, 2 visible"


@dataclass
class SplitInspection:
    """What was found in one split.

    Attributes:
        name: of the split.
        config: of the training.
        file: the annotations.
        statistics: of the annotations.
        boxes: box source -> what is in it; None where it cannot be used.
        notes: what else was decided while reading its boxes.
        pixels: of the images that were decoded; None if none were.
    """

    name: str
    config: Config
    file: CocoKeypointFile
    statistics: SplitStatistics
    boxes: dict[str, BoxStatistics | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pixels: ImageInspection | None = None

    @property
    def trains(self) -> bool:
        """Whether it is the split to train on."""
        return self.name == self.config.data.train

    @property
    def unreadable(self) -> tuple[list[str], int]:
        """The names of the images that cannot be decoded, of those that a training decodes, and their number.

        Of a split that is only trained on or whose boxes are all ground truth, these show labelled people.
        """
        if self.pixels is None:
            return [], 0
        used = np.isin(self.pixels.names, self.file.people().images.uris)
        if any(source != "gt" for source in self.boxes):
            used[:] = True
        return [str(name) for name in self.pixels.names[used & ~self.pixels.readable]], int(used.sum())

    def beyond_limit(self, bad: int, of: int) -> bool:
        return bad > self.config.data.max_bad_share * max(of, 1)


@dataclass(frozen=True)
class Figure:
    """A line of the report.

    Attributes:
        name: of the figure.
        show: its text; None where there is nothing to measure.
        hint: why to look at it and how to mend it; "" where it is fine.
        stops: whether it stops a training.
        examples: names or kinds of what was counted.
    """

    name: str
    show: Callable[[SplitInspection], str | None]
    hint: Callable[[SplitInspection], str] = lambda split: ""
    stops: Callable[[SplitInspection], bool] = lambda split: False
    examples: Callable[[SplitInspection], str] = lambda split: ""


def judge(splits: Mapping[str, SplitInspection]) -> tuple[list[list[str]], list[str]]:
    """The rows of a table with a column for each split and one for the verdict; a line for each thing to
    look at.

    What stops a training has no line here: the checks of a training itself name it.
    """
    rows, lines = [], []
    for figure in figures(splits.values()):
        cells = [figure.show(split) for split in splits.values()]
        if all(cell is None for cell in cells) and not any(map(figure.stops, splits.values())):
            continue
        verdict = FINE
        for split, cell in zip(splits.values(), cells, strict=True):
            if figure.stops(split):
                verdict = STOP
            elif cell is not None and (hint := figure.hint(split)):
                verdict = max(verdict, LOOK, key=(FINE, LOOK, STOP).index)
                examples = figure.examples(split)
                shown = f"{cell} ({examples})" if examples else cell
                lines.append(f"{LOOK}: {split.name}, {figure.name.strip()}: {shown}; {hint}")
        rows.append([figure.name, *("–" if cell is None else cell for cell in cells), verdict])
    for split in splits.values():
        lines += [f"{LOOK}: mended: {note}; {FIXES_HINT}" for note in split.file.fixes]
        lines += [f"{LOOK}: {split.name}, {note}; {FIXES_HINT}" for note in split.notes]
    return rows, lines


def skeleton_lines(skeleton: Skeleton) -> list[str]:
    """A line for what is odd about a skeleton: OKS constants that are lax, sides that are no pair."""
    lines, joints = [], skeleton.joints
    large = [
        f"{joint} {sigma:g}"
        for joint, sigma, known in zip(joints, skeleton.sigmas, known_sigmas(joints), strict=True)
        if sigma > (LARGE_RATIO * known if known else LARGE_SIGMA)
    ]
    if large:
        hint = "AP is too high with them: COCO's are 0.025 (eye) to 0.107 (hip), a tenth of pycocotools' list"
        lines.append(f"{LOOK}: {skeleton.name}, large sigmas: {len(large)} ({first_few(large)}); {hint}")
    apart = [
        f"{joints[left]} = {joints[right]}"
        for left, right in mirrored_pairs(joints)
        if skeleton.flip_permutation[left] != right
    ]
    if apart:
        hint = "mirrored crops confuse them: add them to the skeleton's flip_pairs"
        lines.append(f"{LOOK}: {skeleton.name}, left and right without a pair: {first_few(apart)}; {hint}")
    return lines


def figures(splits: Iterable[SplitInspection]) -> list[Figure]:
    """All figures of the report, in its order."""
    splits = list(splits)
    sources = dict.fromkeys(source for split in splits for source in split.boxes)
    odd = dict.fromkeys(kind for split in splits for kind in split.file.oddities.counts)
    boxes = [figure for source in sources for figure in box_figures(source)]
    return [*PEOPLE, *(oddity_figure(kind) for kind in odd), *boxes, *PIXELS]


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def decimals(value: float) -> str | None:
    return None if np.isnan(value) else f"{value:.2f}"


def statistic(
    name: str,
    show: Callable[[SplitStatistics], str | None],
    odd: Callable[[SplitStatistics], bool] = lambda found: False,
    hint: str = "",
) -> Figure:
    """A figure of the annotations, and what to do where it is odd."""
    return Figure(name, lambda s: show(s.statistics), lambda s: hint if odd(s.statistics) else "")


def few_people(split: SplitInspection) -> str:
    people = split.statistics.people
    if split.trains and people < FEW_TO_TRAIN:
        start = "" if split.config.train.init else ", or start from trained weights (--train.init)"
        return f"few to learn from: label more{start}"
    if not split.trains and people < FEW_TO_MEASURE:
        return "few to measure with: AP changes by several points with each person"
    return ""


def few_joints(split: SplitInspection) -> str:
    few = split.statistics.mean_keypoints < 0.25 * split.file.skeleton.num_joints
    return "few of each person: label more, or leave joints out of the skeleton" if few else ""


def unlabelled(split: SplitInspection) -> str:
    hint = "the network cannot learn them: label them, or leave them out of the skeleton"
    return hint if split.trains and split.statistics.unlabelled else ""


def no_crowd(split: SplitInspection) -> str:
    single = split.trains and split.config.model.instances > 1 and split.statistics.second_person < 0.01
    hint = "hardly any crop shows a neighbour: mipnet train --baseline is the network for one person"
    return hint if single else ""


def other_crowd_index(split: SplitInspection) -> str:
    apart = abs(split.statistics.stated_crowd_index - split.statistics.crowd_index) > 0.3
    hint = "CrowdPose's AP easy, medium and hard go by it: take the file's own from its release"
    return hint if apart and split.config.data.protocol == "crowdpose" else ""


PEOPLE = [
    statistic("images", lambda s: f"{s.images:,}"),
    statistic(
        "  with people to learn from",
        lambda s: f"{s.people_images:,}",
        lambda s: s.people_images < 0.1 * s.images,
        "most images show nobody who is labelled: label them, or leave them out of the file",
    ),
    Figure("people with labelled joints", lambda s: f"{s.statistics.people:,}", few_people),
    Figure(
        "people who cannot be used",
        lambda s: f"{s.file.invalid_annotations.total:,}",
        lambda s: "they are left out: mend them in the file" if s.file.invalid_annotations.total else "",
        lambda s: s.beyond_limit(
            s.file.invalid_annotations.total, s.statistics.people + s.file.invalid_annotations.total
        ),
        lambda s: "; ".join(s.file.invalid_annotations.lines()),
    ),
    Figure("  joints of a person, mean", lambda s: f"{s.statistics.mean_keypoints:.1f}", few_joints),
    Figure(
        "  joints that nobody has",
        lambda s: f"{len(s.statistics.unlabelled)}",
        unlabelled,
        examples=lambda s: first_few(s.statistics.unlabelled),
    ),
    statistic("  people in an image, mean", lambda s: f"{s.mean_people_per_image:.2f}"),
    statistic("  people in an image, most", lambda s: f"{s.max_people_per_image}"),
    statistic("neighbour above IoU 0.1", lambda s: share(s.near)),
    statistic("neighbour above IoU 0.5", lambda s: share(s.close)),
    Figure("crops with a second person", lambda s: share(s.statistics.second_person), no_crowd),
    statistic("crowd index, mean", lambda s: decimals(s.crowd_index)),
    Figure("  as the file states it", lambda s: decimals(s.statistics.stated_crowd_index), other_crowd_index),
    statistic(
        "boxes beyond their image",
        lambda s: f"{s.boxes_outside_image:,}",
        lambda s: s.boxes_outside_image > 0.01 * s.people,
        "they are clipped: check that boxes are x, y, width, height in px",
    ),
    statistic(
        "most joints outside the box",
        lambda s: f"{s.keypoints_outside_box:,}",
        lambda s: s.keypoints_outside_box > 0.05 * s.people,
        "check that box and joints are of one person, and boxes x, y, width, height in px",
    ),
]


def pixel_figure(
    name: str,
    found: Callable[[ImageInspection], list[str]],
    hint: str,
    stops: Callable[[SplitInspection], bool] = lambda split: False,
) -> Figure:
    """A figure that counts images, of those that were decoded."""

    def names(split: SplitInspection) -> list[str]:
        return found(split.pixels) if split.pixels else []

    return Figure(
        name,
        lambda s: f"{len(names(s)):,}" if s.pixels else None,
        lambda s: hint if hint and names(s) else "",
        stops,
        lambda s: first_few(names(s)),
    )


def pairs(found: list[tuple[str, str]]) -> list[str]:
    return [" = ".join(pair) for pair in found]


PIXELS = [
    pixel_figure("images read", lambda p: p.names.tolist(), ""),
    pixel_figure(
        "  missing or corrupt",
        lambda p: p.unreadable,
        "they are left out: restore or remove them",
        lambda s: s.beyond_limit(len(s.unreadable[0]), s.unreadable[1]),
    ),
    pixel_figure("  not of the stated size", lambda p: p.resized, "restore the images that were labelled"),
    pixel_figure("  the same picture twice", lambda p: pairs(p.duplicates()), "it counts twice: remove one"),
]


def oddity_figure(kind: str) -> Figure:
    """What the reading of a file found odd."""
    return Figure(
        kind,
        lambda s: f"{s.file.oddities.counts[kind]:,}",
        lambda s: ODDITY_HINT if s.file.oddities.counts[kind] else "",
        examples=lambda s: ", ".join(s.file.oddities.examples.get(kind, [])),
    )


def box_figures(source: str) -> list[Figure]:
    """The figures of a box source, given as in ``data.boxes``."""
    name = source.partition("=")[0]

    def of(show: Callable[[BoxStatistics], str | None]) -> Callable[[SplitInspection], str | None]:
        return lambda s: None if (found := s.boxes.get(source)) is None else show(found)

    def count_hint(split: SplitInspection) -> str:
        found = split.boxes.get(source)
        return "no pose can be predicted: give boxes of these people" if found and not found.boxes else ""

    def many_hint(split: SplitInspection) -> str:
        found = split.boxes.get(source)
        many = found is not None and found.per_image > MANY_BOXES and source != "gt"
        return "each is a forward pass: raise --data.box-score-threshold" if many else ""

    def recall_hint(split: SplitInspection) -> str:
        found, least = split.boxes.get(source), split.config.data.box_score_threshold
        if not found or not found.boxes or np.isnan(found.recall) or found.recall >= 0.5:
            return ""
        lower = f", or lower --data.box-score-threshold ({least:g})" if least > 0 else ""
        return f"most people get no box: check that the boxes are of these images, in x, y, w, h{lower}"

    return [
        Figure(
            f"boxes of {name}",
            of(lambda b: f"{b.boxes:,}"),
            count_hint,
            lambda s: source in s.boxes and s.boxes[source] is None,
        ),
        Figure("  in an image, mean", of(lambda b: f"{b.per_image:.2f}"), many_hint),
        Figure(
            f"  people found at IoU {RECALL_IOU}",
            of(lambda b: None if np.isnan(b.recall) else share(b.recall)),
            recall_hint,
        ),
    ]
