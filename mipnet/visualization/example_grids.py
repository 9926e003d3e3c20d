"""Contact sheets of a data set's best, worst and most crowded images with their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.crops import labelled_image
from mipnet.data.geometry import BOX_AREA_FRACTION
from mipnet.data.image_index import ImageIndex
from mipnet.errors import DataError
from mipnet.evaluation.oks import oks_matrix
from mipnet.evaluation.result_rows import ResultRow
from mipnet.formats import instance_mode_label
from mipnet.skeletons import Skeleton
from mipnet.visualization.overlays import draw_poses, fit, picture_grid

ExampleKind = Literal["best", "worst", "first", "crowded"]
Results = list[dict[str, Any]]

MERGED = "merged"
CELL = 300  # px, longer side of a picture in the sheet
DRAWING_SIZE = 384  # px, longer side of a picture while poses are drawn on it
MIN_MATCH = 0.1  # OKS of a pose, or IoU of a box, below which it has no person's colour
MARGIN = 0.12  # around the people, relative to the longer side of their extent


@dataclass(frozen=True)
class Example:
    """One image with its people, the largest first, and what was predicted.

    Attributes:
        images, index: the image.
        boxes: (G, 4) x, y, w, h of its people in px.
        keypoints: (G, K, 3) x, y in px and v in {0, 1, 2}.
        areas: (G,) px².
        instance_modes: instance mode -> its poses, COCO results.
        sigmas: (K,) OKS constants.
    """

    images: ImageIndex
    index: int
    boxes: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    instance_modes: dict[str, Results]
    sigmas: np.ndarray

    def score(self) -> float:
        """Mean over the people of the best OKS that any merged pose reaches, 0 to 1."""
        similar = self.similar(self.instance_modes.get(MERGED, []))
        return float(similar.max(axis=1).mean()) if similar.size else 0.0

    def overlap(self) -> float:
        """The largest IoU of two people's boxes, 0 to 1."""
        return float(np.triu(box_iou(self.boxes, self.boxes), 1).max())

    def similar(self, results: Results) -> np.ndarray:
        """(G, P) OKS of persons and poses over each person's labelled keypoints."""
        poses = np.array([r["keypoints"] for r in results]).reshape(len(results), len(self.sigmas), 3)
        similar = np.zeros((len(self.boxes), len(results)))
        for person, keypoints in enumerate(self.keypoints):
            seen = keypoints[:, 2] > 0
            area = self.areas[[person]]  # as in COCO: the person's area, not the pose's
            areas = area.repeat(len(results))
            similar[person] = oks_matrix(
                keypoints[None, seen], area, poses[:, seen], areas, self.sigmas[seen]
            )
        return similar

    def found_boxes(self) -> np.ndarray:
        """(B, 4) the distinct boxes of the predictions."""
        found = {tuple(r["box"]) for results in self.instance_modes.values() for r in results if "box" in r}
        return np.array(sorted(found), np.float64).reshape(-1, 4)


def example_grid(
    file: CocoKeypointFile, result_rows: Sequence[ResultRow], count: int, which: ExampleKind
) -> np.ndarray:
    """A contact sheet, one image a row: boxes, each λ alone, merged, ground truth.

    A pose or box has the colour of the most similar annotated person, in all pictures. The pictures show the
    part of the image with people.

    Args:
        file: the annotations.
        result_rows: the lines of one split and box source, one per instance mode.
        count: largest number of rows; images that cannot be read are skipped.
        which: "best" or "worst" of the images of several people, by the mean over the people of the best OKS
            of a merged pose; "crowded" by the largest IoU of two people's boxes; "first" in the order of the
            ids.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        DataError: none of the images can be read.
    """
    modes = [*sorted(row.instance_mode for row in result_rows if row.instance_mode != MERGED), MERGED]
    rows: list[list[np.ndarray]] = []
    captions: list[str] = []
    for example in ranked(examples(file, result_rows), which):
        if len(rows) == count:
            break
        image = labelled_image(example.images, example.index)
        if image is None:
            continue
        rows.append(draw_row(image, example, modes, file.skeleton))
        captions.append(caption(example))
    if not rows:
        raise DataError(f"{file.images_uri} has no image that can be drawn", "check the images")
    titles = ["boxes", *map(instance_mode_label, modes), "ground truth"]
    return picture_grid(rows, titles, captions, CELL)


def examples(file: CocoKeypointFile, result_rows: Sequence[ResultRow]) -> list[Example]:
    """Every image that shows an annotated person, by id."""
    people = file.people()
    by_image: dict[tuple[str, int], Results] = {}
    for row in result_rows:
        for result in row.results:
            by_image.setdefault((row.instance_mode, result["image_id"]), []).append(result)
    areas = areas_of(file, people.ids)
    found = []
    for index, image_id in enumerate(people.images.ids.tolist()):
        part = np.arange(people.image_offsets[index], people.image_offsets[index + 1])
        part = part[np.argsort(-areas[part], kind="stable")]  # large people get the most distinct colours
        modes = {r.instance_mode: by_image.get((r.instance_mode, image_id), []) for r in result_rows}
        shown = people.boxes[part], people.keypoints[part], areas[part]
        found.append(Example(people.images, index, *shown, modes, np.array(file.skeleton.sigmas)))
    return found


def areas_of(file: CocoKeypointFile, ids: np.ndarray) -> np.ndarray:
    """(P,) float64 areas of people in px²; without one, as in CrowdPose, 0.53 of the box."""
    rows = file.columns.rows_of(ids)
    stated, boxes = file.columns.areas[rows].astype(np.float64), file.columns.boxes[rows].astype(np.float64)
    of_box: np.ndarray = BOX_AREA_FRACTION * boxes[:, 2] * boxes[:, 3]
    return np.where(np.nan_to_num(stated) != 0, stated, of_box)


def ranked(found: Sequence[Example], which: ExampleKind) -> list[Example]:
    """Examples sorted by a criterion; ties by image id.

    The best and the worst are chosen among images of several people, if there are any, because these networks
    are for crowds.
    """
    if which == "first":
        return list(found)
    if which == "crowded":
        return sorted(found, key=lambda example: -example.overlap())
    sign = -1 if which == "best" else 1
    crowds = [example for example in found if len(example.boxes) > 1] or found
    return sorted(crowds, key=lambda example: sign * example.score())


def caption(example: Example) -> str:
    """File name, number of people, mean OKS and largest box IoU of an image."""
    name = str(example.images.uris[example.index]).rpartition("/")[2]
    people = len(example.boxes)
    text = f"{name}   {people} {'people' if people > 1 else 'person'}   mean OKS {example.score():.2f}"
    return text + (f"   largest box IoU {example.overlap():.2f}" if people > 1 else "")


def draw_row(image: np.ndarray, example: Example, modes: Sequence[str], body: Skeleton) -> list[np.ndarray]:
    """The pictures of one image: boxes, the instance modes, ground truth."""
    boxes, truth = example.found_boxes(), example.keypoints.astype(np.float64)
    # Occluded keypoints (v = 1) are fainter, unlabelled ones are not drawn.
    truth[..., 2] = np.array([0, 0.5, 1])[example.keypoints[..., 2].astype(int)]
    alone = [{"keypoints": np.zeros(3 * body.num_joints), "box": box} for box in boxes]
    columns: list[tuple[Results, list[int]]] = [(alone, colours(box_iou(example.boxes, boxes)))]
    for mode in modes:
        poses = [{k: v for k, v in r.items() if k != "box"} for r in example.instance_modes[mode]]
        columns.append((poses, colours(example.similar(poses))))
    columns.append(([{"keypoints": keypoints} for keypoints in truth], list(range(len(truth)))))
    left, top, right, bottom = shown_part(image, np.concatenate([boxes, example.boxes]))
    part = image[top:bottom, left:right]
    row = []
    for column, (results, tints) in enumerate(columns):
        # Resize before drawing, so that lines have the same width in all pictures. Boxes are drawn at the
        # final size, because downscaling would make their thin lines vanish.
        side = DRAWING_SIZE if column else CELL
        scale = side / max(part.shape[:2])
        placed = [moved(result, left, top, scale) for result in results]
        row.append(draw_poses(fit(part, side), placed, body, longer_side=side, colours=tints))
    return row


def moved(result: dict[str, Any], left: float, top: float, scale: float) -> dict[str, Any]:
    """A pose and its box in an image region that starts at left, top (px) and is resized by ``scale``."""
    keypoints = np.array(result["keypoints"], np.float64).reshape(-1, 3)
    keypoints[:, :2] = (keypoints[:, :2] - (left, top) + 0.5) * scale - 0.5  # pixel corners keep their place
    placed = {**result, "keypoints": keypoints}
    if "box" in result:
        x, y, w, h = result["box"]
        placed["box"] = (x - left) * scale, (y - top) * scale, w * scale, h * scale
    return placed


def colours(similar: np.ndarray) -> list[int]:
    """Palette index of each column of (G, P) similarities: the most similar person's, or a new one."""
    new = len(similar) + np.arange(similar.shape[1])
    tints: list[int] = np.where(similar.max(axis=0) < MIN_MATCH, new, similar.argmax(axis=0)).tolist()
    return tints


def shown_part(image: np.ndarray, boxes: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part that holds all boxes and some context, in whole px."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * (high - low).max()
    limit = image.shape[1::-1]
    left, top = np.floor(low - margin).clip(0, np.array(limit) - 1).astype(int).tolist()
    right, bottom = np.ceil(high + margin).clip((left + 1, top + 1), limit).astype(int).tolist()
    return left, top, right, bottom
