"""Statistics of a split's annotations and boxes: persons, crowding, suspicious annotations, recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.data.coco import Boxes, CocoKeypointFile, PersonAnnotations
from mipnet.data.crops import assign_instances
from mipnet.data.crowding import crowd_index
from mipnet.data.geometry import box_to_crop, crop_affine, transform_keypoints
from mipnet.data.json_values import number

BORDER_TOLERANCE = 1.0
"""px by which a box or keypoint may exceed its image, because annotation tools round."""
RECALL_IOU = 0.5


@dataclass(frozen=True)
class SplitStatistics:
    """SplitStatistics of one split; fractions (0 to 1) are of the persons with labelled keypoints.

    Attributes:
        images: in the file.
        people_images: images with at least one person with labelled keypoints.
        people: persons with labelled keypoints.
        mean_keypoints: labelled keypoints per person.
        unlabelled: names of the joints that no person has labelled.
        mean_people_per_image, max_people_per_image: over ``people_images``.
        near, close: fraction with a neighbour above box IoU 0.1 and 0.5.
        second_person: fraction of crops, not augmented, with a second instance (``assign_instances``).
        crowd_index: mean over the images of ``crowd_index``.
        stated_crowd_index: mean of the file's own crowdIndex; nan without any.
        boxes_outside_image: people whose box lies outside the image.
        keypoints_outside_box: persons with more than half of their labelled keypoints outside their box.
    """

    images: int
    people_images: int
    people: int
    mean_keypoints: float
    unlabelled: tuple[str, ...]
    mean_people_per_image: float
    max_people_per_image: int
    near: float
    close: float
    second_person: float
    crowd_index: float
    stated_crowd_index: float
    boxes_outside_image: int
    keypoints_outside_box: int


@dataclass(frozen=True)
class Crowding:
    """How crowded the images of a split are, over those that show a person with labelled keypoints.

    Attributes:
        people_per_image: mean.
        near, close: fraction of the persons with a neighbour above box IoU 0.1 and 0.5.
        crowd_index: mean over the images of ``crowd_index``.
    """

    people_per_image: float
    near: float
    close: float
    crowd_index: float


@dataclass(frozen=True)
class BoxStatistics:
    """Of a box source of one split.

    Attributes:
        boxes: their number.
        per_image: over all images of the file.
        recall: fraction of the labelled persons with a box of IoU 0.5 or more; nan without any person.
    """

    boxes: int
    per_image: float
    recall: float


def box_statistics(file: CocoKeypointFile, boxes: Boxes) -> BoxStatistics:
    """The statistics of the boxes in which a split's poses are predicted."""
    truth, found = file.ground_truth_boxes(), 0
    of_person, of_box = truth.image_ids, boxes.image_ids  # both sorted: boxes are sorted by image
    for image_id in np.unique(of_person).tolist():
        here, there = (slice(*np.searchsorted(ids, [image_id, image_id + 1])) for ids in (of_person, of_box))
        found += int((box_iou(truth.boxes[here], boxes.boxes[there]) >= RECALL_IOU).any(1).sum())
    recall = found / len(truth) if len(truth) else float("nan")
    return BoxStatistics(len(boxes), len(boxes) / max(len(boxes.images), 1), recall)


def split_statistics(file: CocoKeypointFile, input_size: tuple[int, int], padding: float) -> SplitStatistics:
    """The statistics of a split.

    Args:
        file: its annotations.
        input_size: (w, h) of a crop in px, for ``second_person``.
        padding: as for ``box_to_crop``.

    Raises:
        DataError: the split has no usable person.
    """
    people = file.people()
    sizes = file.columns.sizes_of(people.images.ids)
    labelled = people.keypoints[..., 2] > 0
    second = np.zeros(len(people), bool)
    for begin, end in zip(people.image_offsets[:-1], people.image_offsets[1:], strict=True):
        if end - begin > 1:
            boxes, keypoints = people.boxes[begin:end], people.keypoints[begin:end]
            second[begin:end] = [
                has_second_person(boxes, keypoints, i, input_size, padding) for i in range(len(boxes))
            ]
    crowd = crowding(people)
    per_image = people.people_per_image
    boxes_outside_image, keypoints_outside_box = _count_outside(
        file, people, labelled, np.repeat(sizes, per_image, 0)
    )
    given = [number(found.get("crowdIndex")) for found in file.columns.extras.values()]
    stated = [value for value in given if value is not None]
    return SplitStatistics(
        images=len(file.images()),
        people_images=len(people.images),
        people=len(people),
        mean_keypoints=float(labelled.sum(1).mean()),
        unlabelled=tuple(np.array(file.skeleton.joints)[~labelled.any(0)].tolist()),
        mean_people_per_image=crowd.people_per_image,
        max_people_per_image=int(per_image.max()),
        near=crowd.near,
        close=crowd.close,
        second_person=float(second.mean()),
        crowd_index=crowd.crowd_index,
        stated_crowd_index=float(np.mean(stated)) if stated else float("nan"),
        boxes_outside_image=boxes_outside_image,
        keypoints_outside_box=keypoints_outside_box,
    )


def crowding(people: PersonAnnotations) -> Crowding:
    """How crowded the images of people, of whom there is at least one, are."""
    overlap = np.zeros(len(people))
    indices = np.zeros(len(people.images))
    for image, (begin, end) in enumerate(
        zip(people.image_offsets[:-1], people.image_offsets[1:], strict=True)
    ):
        boxes = people.boxes[begin:end]
        indices[image] = crowd_index(boxes, people.keypoints[begin:end])
        if end - begin > 1:
            iou = box_iou(boxes, boxes)
            np.fill_diagonal(iou, 0)
            overlap[begin:end] = iou.max(axis=1)
    return Crowding(
        people_per_image=float(people.people_per_image.mean()),
        near=float((overlap > 0.1).mean()),
        close=float((overlap > 0.5).mean()),
        crowd_index=float(indices.mean()),
    )


def has_second_person(
    boxes: np.ndarray, keypoints: np.ndarray, primary: int, input_size: tuple[int, int], padding: float
) -> bool:
    """Whether a person's crop, not augmented, has another person for λ = 1."""
    center, size = box_to_crop(boxes[primary], input_size, padding)
    keypoints_crop = transform_keypoints(crop_affine(center, size, 0.0, input_size), keypoints, input_size)
    return bool(assign_instances(boxes, keypoints_crop, primary, 2)[1] != primary)


def _count_outside(
    file: CocoKeypointFile, people: PersonAnnotations, labelled: np.ndarray, sizes: np.ndarray
) -> tuple[int, int]:
    """``boxes_outside_image`` and ``keypoints_outside_box``."""
    stated = file.columns.boxes[file.columns.rows_of(people.ids)].astype(np.float64)
    beyond = (stated[:, :2] < -BORDER_TOLERANCE) | (stated[:, :2] + stated[:, 2:] > sizes + BORDER_TOLERANCE)
    xy = people.keypoints[..., :2]
    low, high = (
        stated[:, None, :2] - BORDER_TOLERANCE,
        stated[:, None, :2] + stated[:, None, 2:] + BORDER_TOLERANCE,
    )
    off_box = ((xy < low) | (xy > high)).any(-1) & labelled
    mostly = off_box.sum(1) * 2 > labelled.sum(1)
    return int(beyond.any(1).sum()), int(mostly.sum())
