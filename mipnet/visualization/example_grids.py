"""Contact sheets of a data set's best, worst and most crowded images, as the network saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.data.coco import CocoFile, Images
from mipnet.data.crops import read_image
from mipnet.errors import DataError
from mipnet.evaluation.oks import oks_matrix
from mipnet.evaluation.result_rows import Entry
from mipnet.formats import view_name
from mipnet.skeletons import Skeleton
from mipnet.visualization.overlays import draw_poses, picture_grid

Which = Literal["best", "worst", "first", "crowded"]
Results = list[dict[str, Any]]

MERGED = "merged"
CELL = 300  # px, longer side of a picture in the sheet
DRAWN = 384  # px, longer side while it is drawn on
STRANGER = 0.1  # a pose (by OKS) or box (by IoU) that is not even so close to anybody has a colour of its own
MARGIN = 0.12  # of the shown part's longer side, around the people


@dataclass(frozen=True)
class Example:
    """One image with its people, the largest first, and what was predicted.

    Attributes:
        images, index: where its pixels are.
        boxes: (G, 4) x, y, w, h of its people in px.
        keypoints: (G, K, 3) x, y in px and v in {0, 1, 2}.
        areas: (G,) px².
        views: view -> its poses, COCO results.
        sigmas: (K,) OKS constants.
    """

    images: Images
    index: int
    boxes: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    views: dict[str, Results]
    sigmas: np.ndarray

    def score(self) -> float:
        """Mean over the people of the best OKS that any merged pose reaches, 0 to 1."""
        similar = self.similar(self.views.get(MERGED, []))
        return float(similar.max(axis=1).mean()) if similar.size else 0.0

    def overlap(self) -> float:
        """The largest IoU of two people's boxes, 0 to 1."""
        return float(np.triu(box_iou(self.boxes, self.boxes), 1).max())

    def similar(self, results: Results) -> np.ndarray:
        """(G, P) OKS over each person's labelled joints."""
        poses = np.array([r["keypoints"] for r in results]).reshape(len(results), len(self.sigmas), 3)
        similar = np.zeros((len(self.boxes), len(results)))
        for person, joints in enumerate(self.keypoints):
            seen = joints[:, 2] > 0
            area = self.areas[[person]]  # as in COCO, the person's area and not the pose's counts
            areas = area.repeat(len(results))
            similar[person] = oks_matrix(joints[None, seen], area, poses[:, seen], areas, self.sigmas[seen])
        return similar

    def found_boxes(self) -> np.ndarray:
        """(B, 4) the boxes that were predicted in, each once."""
        found = {tuple(r["box"]) for results in self.views.values() for r in results if "box" in r}
        return np.array(sorted(found), np.float64).reshape(-1, 4)


def example_grid(file: CocoFile, entries: Sequence[Entry], count: int, which: Which) -> np.ndarray:
    """A contact sheet, one image a row: boxes, each λ alone, merged, ground truth.

    A person keeps its colour from picture to picture: a pose or box has the colour of the annotated person
    that it is closest to. The pictures show the part of the image where the people are.

    Args:
        file: the annotations.
        entries: the lines of one split and box source, one per view.
        count: at most so many rows; images that cannot be read are passed over.
        which: "best" or "worst" of the images of several people, by the mean over the people of the best OKS
            of a merged pose; "crowded" by the largest IoU of two people's boxes; "first" in the order of the
            ids.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        DataError: none of the images can be read.
    """
    views = [*sorted(entry.view for entry in entries if entry.view != MERGED), MERGED]
    rows: list[list[np.ndarray]] = []
    captions: list[str] = []
    for example in ranked(examples(file, entries), which):
        if len(rows) == count:
            break
        image = read_image(str(example.images.uris[example.index]))
        if image is None:
            continue
        rows.append(draw_row(image, example, views, file.skeleton))
        captions.append(caption(example))
    if not rows:
        raise DataError(f"{file.images_uri} has no image that can be drawn", "check the images")
    return picture_grid(rows, ["boxes", *map(view_name, views), "ground truth"], captions, CELL)


def examples(file: CocoFile, entries: Sequence[Entry]) -> list[Example]:
    """Every image that shows an annotated person, by id."""
    people, _ = file.people()
    by_image: dict[tuple[str, int], Results] = {}
    for entry in entries:
        for result in entry.results:
            by_image.setdefault((entry.view, result["image_id"]), []).append(result)
    areas = np.array([area_of(file.coco.anns[number]) for number in people.ids.tolist()])
    found = []
    for index, image_id in enumerate(people.images.ids.tolist()):
        part = np.arange(people.first[index], people.first[index + 1])
        part = part[np.argsort(-areas[part], kind="stable")]  # large people get the most distinct colours
        views = {entry.view: by_image.get((entry.view, image_id), []) for entry in entries}
        shown = people.boxes[part], people.keypoints[part], areas[part]
        found.append(Example(people.images, index, *shown, views, np.array(file.skeleton.sigmas)))
    return found


def area_of(annotation: dict[str, Any]) -> float:
    """px² of a person; CrowdPose gives none and takes this share of the box."""
    _, _, width, height = annotation["bbox"]
    return annotation.get("area") or 0.53 * width * height


def ranked(found: Sequence[Example], which: Which) -> list[Example]:
    """``found`` in the order asked for; of equals the lower image id comes first.

    The best and the worst are sought among the images of several people, where there are any: one person is
    not what these networks are for.
    """
    if which == "first":
        return list(found)
    if which == "crowded":
        return sorted(found, key=lambda example: -example.overlap())
    sign = -1 if which == "best" else 1
    several = [example for example in found if len(example.boxes) > 1] or found
    return sorted(several, key=lambda example: sign * example.score())


def caption(example: Example) -> str:
    """The image, how many people it shows, how well they were found and how much they overlap."""
    name = str(example.images.uris[example.index]).rpartition("/")[2]
    people = len(example.boxes)
    text = f"{name}   {people} {'people' if people > 1 else 'person'}   mean OKS {example.score():.2f}"
    return text + (f"   largest box IoU {example.overlap():.2f}" if people > 1 else "")


def draw_row(image: np.ndarray, example: Example, views: Sequence[str], body: Skeleton) -> list[np.ndarray]:
    """The pictures of one image: boxes, the views, ground truth."""
    boxes, truth = example.found_boxes(), example.keypoints.astype(np.float64)
    # An occluded joint (v = 1) is drawn fainter, an unlabelled one not at all.
    truth[..., 2] = np.array([0, 0.5, 1])[example.keypoints[..., 2].astype(int)]
    alone = [{"keypoints": np.zeros(3 * body.num_joints), "box": box} for box in boxes]
    columns: list[tuple[Results, list[int]]] = [(alone, colours(box_iou(example.boxes, boxes)))]
    for view in views:
        poses = [{k: v for k, v in r.items() if k != "box"} for r in example.views[view]]
        columns.append((poses, colours(example.similar(poses))))
    columns.append(([{"keypoints": joints} for joints in truth], list(range(len(truth)))))
    left, top, right, bottom = shown_part(image, np.concatenate([boxes, example.boxes]))
    part = image[top:bottom, left:right]
    row = []
    for column, (results, tints) in enumerate(columns):
        # Resized before anything is drawn, so that lines are as thick in every picture. Boxes are thin, and
        # would all but vanish if they were scaled down with the picture.
        side = DRAWN if column else CELL
        scale = side / max(part.shape[:2])
        size = tuple(max(1, round(scale * length)) for length in part.shape[1::-1])
        resized = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        placed = [moved(result, left, top, scale) for result in results]
        row.append(draw_poses(resized, placed, body, longer_side=side, colours=tints))
    return row


def moved(result: dict[str, Any], left: float, top: float, scale: float) -> dict[str, Any]:
    """The same pose and box in the part of the image that begins at left, top and is resized by ``scale``."""
    joints = np.array(result["keypoints"], np.float64).reshape(-1, 3)
    joints[:, :2] = (joints[:, :2] - (left, top) + 0.5) * scale - 0.5  # resizing keeps pixels' borders
    box = {}
    if "box" in result:
        x, y, w, h = result["box"]
        box = {"box": ((x - left) * scale, (y - top) * scale, w * scale, h * scale)}
    return {**result, "keypoints": joints, **box}


def colours(similar: np.ndarray) -> list[int]:
    """For each column of (G, P) similarities the closest person's number; a new one where nobody is close."""
    people = len(similar)
    closest = np.where(
        similar.max(axis=0) < STRANGER, people + np.arange(similar.shape[1]), similar.argmax(axis=0)
    )
    return closest.tolist()


def shown_part(image: np.ndarray, boxes: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part that holds all boxes and some context, in whole px."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * (high - low).max()
    limit = image.shape[1::-1]
    left, top = np.floor(low - margin).clip(0, np.array(limit) - 1).astype(int).tolist()
    right, bottom = np.ceil(high + margin).clip((left + 1, top + 1), limit).astype(int).tolist()
    return left, top, right, bottom
