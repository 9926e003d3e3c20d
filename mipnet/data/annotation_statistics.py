"""What is in the annotations of a split: how many people, how crowded, what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.data.coco import CocoFile, People
from mipnet.data.crops import assign_instances
from mipnet.data.geometry import box_to_crop, crop_affine, transform_keypoints

SLACK = 1.0
"""px that a box or joint may stand over the image's border: annotators' tools round."""


@dataclass(frozen=True)
class Statistics:
    """Figures of one split; shares are of the people with labelled joints.

    Attributes:
        images: in the file; people_images: those with somebody whose joints are labelled.
        people: with labelled joints.
        joints: labelled joints of a person, mean.
        mean_people, most_people: in an image that has any.
        near, close: share with a neighbour above box IoU 0.1 and 0.5.
        second: share of crops, not augmented, that show a second person to learn (more than 3 joints).
        crowd_index: mean over the images; CrowdPose's measure, see ``crowd_index``.
        stated: mean of the crowdIndex that the file gives; nan where it gives none.
        boxes_beyond, joints_beyond: people whose box, or a labelled joint, lies beyond the image.
        joints_off: people more than half of whose labelled joints lie outside their own box.
        twice: people annotated twice, joint for joint.
    """

    images: int
    people_images: int
    people: int
    joints: float
    mean_people: float
    most_people: int
    near: float
    close: float
    second: float
    crowd_index: float
    stated: float
    boxes_beyond: int
    joints_beyond: int
    joints_off: int
    twice: int


def statistics_of(file: CocoFile, input_size: tuple[int, int], padding: float) -> Statistics:
    """Count what a split holds.

    Args:
        file: its annotations.
        input_size: (w, h) of a crop in px; whom a crop shows depends on its shape.
        padding: of the box, as ``InputConfig.padding``.

    Raises:
        DataError: there is nobody in it.
    """
    people, _ = file.people()
    infos = [file.coco.imgs[i] for i in people.images.ids.tolist()]
    sizes = np.array([(info["width"], info["height"]) for info in infos], np.float64)
    labelled = people.keypoints[..., 2] > 0
    overlap = np.zeros(len(people))
    second = np.zeros(len(people), bool)
    crowd = np.zeros(len(people.images))
    twice = 0
    for image, (begin, end) in enumerate(zip(people.first[:-1], people.first[1:], strict=True)):
        boxes, keypoints = people.boxes[begin:end], people.keypoints[begin:end]
        crowd[image] = crowd_index(boxes, keypoints)
        if end - begin == 1:
            continue
        iou = box_iou(boxes, boxes)
        np.fill_diagonal(iou, 0)
        overlap[begin:end] = iou.max(axis=1)
        second[begin:end] = [has_second(boxes, keypoints, i, input_size, padding) for i in range(len(boxes))]
        twice += len(keypoints) - len(np.unique(keypoints.reshape(len(keypoints), -1), axis=0))
    per_image = people.per_image
    boxes_beyond, joints_beyond, joints_off = _misplaced(
        file, people, labelled, np.repeat(sizes, per_image, 0)
    )
    stated = [info["crowdIndex"] for info in file.annotations["images"] if "crowdIndex" in info]
    return Statistics(
        images=len(file.annotations["images"]),
        people_images=len(people.images),
        people=len(people),
        joints=float(labelled.sum(1).mean()),
        mean_people=float(per_image.mean()),
        most_people=int(per_image.max()),
        near=float((overlap > 0.1).mean()),
        close=float((overlap > 0.5).mean()),
        second=float(second.mean()),
        crowd_index=float(crowd.mean()),
        stated=float(np.mean(stated)) if stated else float("nan"),
        boxes_beyond=boxes_beyond,
        joints_beyond=joints_beyond,
        joints_off=joints_off,
        twice=twice,
    )


def crowd_index(boxes: np.ndarray, keypoints: np.ndarray) -> float:
    """CrowdPose's measure of an image: labelled joints of others in a person's box, over the person's own.

    The mean over the image's people, at most 1; on CrowdPose's val half of the stated values agree to the
    rounding of two places.

    Args:
        boxes: (P, 4) x, y, w, h.
        keypoints: (P, K, 3).
    """
    labelled = keypoints[..., 2] > 0
    xy = keypoints[None, ..., :2]
    low, high = boxes[:, None, None, :2], boxes[:, None, None, :2] + boxes[:, None, None, 2:]
    inside = ((xy >= low) & (xy <= high)).all(-1) & labelled[None]  # (box, person, joint)
    counts = inside.sum(-1)
    np.fill_diagonal(counts, 0)
    return float(min((counts.sum(1) / np.maximum(labelled.sum(1), 1)).mean(), 1))


def has_second(
    boxes: np.ndarray, keypoints: np.ndarray, primary: int, input_size: tuple[int, int], padding: float
) -> bool:
    """Whether a person's crop, not augmented, shows another that λ = 1 can learn."""
    center, size = box_to_crop(boxes[primary], input_size, padding)
    joints = transform_keypoints(crop_affine(center, size, 0.0, input_size), keypoints, input_size)
    return bool(assign_instances(boxes, joints, primary, 2)[1] != primary)


def _misplaced(
    file: CocoFile, people: People, labelled: np.ndarray, sizes: np.ndarray
) -> tuple[int, int, int]:
    """How many people have a box beyond the image, a joint beyond it, most joints outside of their box."""
    stated = np.array([file.coco.anns[i]["bbox"] for i in people.ids.tolist()], np.float64)
    beyond = (stated[:, :2] < -SLACK) | (stated[:, :2] + stated[:, 2:] > sizes + SLACK)
    xy = people.keypoints[..., :2]
    off_image = ((xy < -SLACK) | (xy > sizes[:, None] + SLACK)).any(-1) & labelled
    low, high = stated[:, None, :2] - SLACK, stated[:, None, :2] + stated[:, None, 2:] + SLACK
    off_box = ((xy < low) | (xy > high)).any(-1) & labelled
    mostly = off_box.sum(1) * 2 > labelled.sum(1)
    return int(beyond.any(1).sum()), int(off_image.any(1).sum()), int(mostly.sum())
