"""SplitStatistics of a split's annotations: number of persons, crowding, suspicious annotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.data.coco import CocoKeypointFile, PersonAnnotations
from mipnet.data.crops import assign_instances
from mipnet.data.geometry import box_to_crop, crop_affine, transform_keypoints

BORDER_TOLERANCE = 1.0
"""px by which a box or keypoint may exceed its image, because annotation tools round."""


@dataclass(frozen=True)
class SplitStatistics:
    """SplitStatistics of one split; fractions (0 to 1) are of the persons with labelled keypoints.

    Attributes:
        images: in the file.
        people_images: images with at least one person with labelled keypoints.
        people: persons with labelled keypoints.
        mean_keypoints: labelled keypoints per person.
        mean_people_per_image, max_people_per_image: over ``people_images``.
        near, close: fraction with a neighbour above box IoU 0.1 and 0.5.
        second_person: fraction of crops, not augmented, with a second instance (``assign_instances``).
        crowd_index: mean over the images of ``crowd_index``.
        stated_crowd_index: mean of the file's own crowdIndex; nan without any.
        boxes_outside_image, keypoints_outside_image: people whose box, or a labelled keypoint, lies
            outside the image.
        keypoints_outside_box: persons with more than half of their labelled keypoints outside their box.
    """

    images: int
    people_images: int
    people: int
    mean_keypoints: float
    mean_people_per_image: float
    max_people_per_image: int
    near: float
    close: float
    second_person: float
    crowd_index: float
    stated_crowd_index: float
    boxes_outside_image: int
    keypoints_outside_image: int
    keypoints_outside_box: int


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
    overlap = np.zeros(len(people))
    second = np.zeros(len(people), bool)
    crowd = np.zeros(len(people.images))
    for image, (begin, end) in enumerate(
        zip(people.image_offsets[:-1], people.image_offsets[1:], strict=True)
    ):
        boxes, keypoints = people.boxes[begin:end], people.keypoints[begin:end]
        crowd[image] = crowd_index(boxes, keypoints)
        if end - begin == 1:
            continue
        iou = box_iou(boxes, boxes)
        np.fill_diagonal(iou, 0)
        overlap[begin:end] = iou.max(axis=1)
        second[begin:end] = [
            has_second_person(boxes, keypoints, i, input_size, padding) for i in range(len(boxes))
        ]
    per_image = people.people_per_image
    boxes_outside_image, keypoints_outside_image, keypoints_outside_box = _count_outside(
        file, people, labelled, np.repeat(sizes, per_image, 0)
    )
    stated = [info["crowdIndex"] for info in file.columns.extras.values() if "crowdIndex" in info]
    return SplitStatistics(
        images=len(file.images()),
        people_images=len(people.images),
        people=len(people),
        mean_keypoints=float(labelled.sum(1).mean()),
        mean_people_per_image=float(per_image.mean()),
        max_people_per_image=int(per_image.max()),
        near=float((overlap > 0.1).mean()),
        close=float((overlap > 0.5).mean()),
        second_person=float(second.mean()),
        crowd_index=float(crowd.mean()),
        stated_crowd_index=float(np.mean(stated)) if stated else float("nan"),
        boxes_outside_image=boxes_outside_image,
        keypoints_outside_image=keypoints_outside_image,
        keypoints_outside_box=keypoints_outside_box,
    )


def crowd_index(boxes: np.ndarray, keypoints: np.ndarray) -> float:
    """CrowdPose's crowd index of an image: labelled keypoints of others in a person's box / the person's own.

    The mean over the image's persons, at most 1. On CrowdPose's val, half of the stated values agree to two
    decimals.

    Args:
        boxes: (P, 4) x, y, w, h in px.
        keypoints: (P, K, 3) x, y in px and v.
    """
    labelled = keypoints[..., 2] > 0
    xy = keypoints[None, ..., :2]
    low, high = boxes[:, None, None, :2], boxes[:, None, None, :2] + boxes[:, None, None, 2:]
    inside = ((xy >= low) & (xy <= high)).all(-1) & labelled[None]  # (box, person, keypoint)
    counts = inside.sum(-1)
    np.fill_diagonal(counts, 0)
    return float(min((counts.sum(1) / np.maximum(labelled.sum(1), 1)).mean(), 1))


def has_second_person(
    boxes: np.ndarray, keypoints: np.ndarray, primary: int, input_size: tuple[int, int], padding: float
) -> bool:
    """Whether a person's crop, not augmented, has another person for λ = 1."""
    center, size = box_to_crop(boxes[primary], input_size, padding)
    keypoints_crop = transform_keypoints(crop_affine(center, size, 0.0, input_size), keypoints, input_size)
    return bool(assign_instances(boxes, keypoints_crop, primary, 2)[1] != primary)


def _count_outside(
    file: CocoKeypointFile, people: PersonAnnotations, labelled: np.ndarray, sizes: np.ndarray
) -> tuple[int, int, int]:
    """``boxes_outside_image``, ``keypoints_outside_image`` and ``keypoints_outside_box``."""
    stated = file.columns.boxes[file.columns.rows_of(people.ids)].astype(np.float64)
    beyond = (stated[:, :2] < -BORDER_TOLERANCE) | (stated[:, :2] + stated[:, 2:] > sizes + BORDER_TOLERANCE)
    xy = people.keypoints[..., :2]
    off_image = ((xy < -BORDER_TOLERANCE) | (xy > sizes[:, None] + BORDER_TOLERANCE)).any(-1) & labelled
    low, high = (
        stated[:, None, :2] - BORDER_TOLERANCE,
        stated[:, None, :2] + stated[:, None, 2:] + BORDER_TOLERANCE,
    )
    off_box = ((xy < low) | (xy > high)).any(-1) & labelled
    mostly = off_box.sum(1) * 2 > labelled.sum(1)
    return int(beyond.any(1).sum()), int(off_image.any(1).sum()), int(mostly.sum())
