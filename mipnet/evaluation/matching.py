"""Which pose finds which person: COCO's greedy assignment at OKS 0.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config.schema import DataConfig
from mipnet.evaluation import coco
from mipnet.evaluation.coco import Annotations
from mipnet.evaluation.crowdpose import with_areas
from mipnet.evaluation.oks import Sigmas

MATCH_OKS = 0.5
"""Least OKS at which a pose finds a person."""


@dataclass(frozen=True)
class Matches:
    """The M poses and G people of a data set, and who is found by which pose.

    Poses are assigned as COCOeval does it: in each image, by falling score, a pose takes the person that is
    still free and has the highest OKS with it, if that is ``MATCH_OKS`` or more. People whom the protocol
    ignores (crowd regions, people without labelled keypoints) are not among the G, and a pose that is
    assigned to one is not among the M: it is neither hit nor miss. Unlike in COCO's AP, all poses of an image
    count, not only the best 20.

    Attributes:
        scores: (M,) float64 pose scores, falling; equal ones in the order of the results.
        poses: (M, K, 3) float64: x, y in image px and the joint's score.
        person: (M,) int64 index of the person that the pose finds; -1 is a false positive.
        keypoints: (G, K, 3) float64: x, y in image px and v; v = 0 is not labelled.
        areas: (G,) float64 px², as the protocol takes them for OKS.
        boxes: (G, 4) float64 x, y, w, h in px.
    """

    scores: np.ndarray
    poses: np.ndarray
    person: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """(M,) bool: whether the pose finds a person."""
        return self.person >= 0

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) int64 indices of the poses that find a person, and (F,) of these people."""
        poses = np.flatnonzero(self.hits)
        return poses, self.person[poses]

    def distances(self) -> np.ndarray:
        """(F, K) float64 px between the joints of pose and person, for each person found; nan: unlabelled."""
        poses, people = self.found()
        away = np.linalg.norm(self.poses[poses, :, :2] - self.keypoints[people, :, :2], axis=-1)
        return np.where(self.keypoints[people, :, 2] > 0, away, np.nan)

    def joint_oks(self, sigmas: Sigmas) -> np.ndarray:
        """(F, K) float64 OKS of single joints, exp(-d² / (2 · (2 sigma)² · area)); nan where unlabelled."""
        _, people = self.found()
        variance = (2 * np.asarray(sigmas, np.float64)) ** 2
        similarity: np.ndarray = np.exp(
            -(self.distances() ** 2) / (2 * variance * (self.areas[people, None] + np.spacing(1.0)))
        )
        return similarity


def match_poses(data: DataConfig, annotations: Annotations, results: list[dict[str, Any]]) -> Matches:
    """Assign poses to people by the rules of a data set's protocol.

    Args:
        data: has the protocol and the skeleton.
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's result format; not changed.

    Raises:
        DataError: as ``evaluate_keypoints``.
    """
    annotations = coco.load_annotations(annotations)
    if data.protocol == "crowdpose":
        annotations = with_areas(annotations)
    sigmas = data.joints.sigmas
    truth = coco.ground_truth_index(annotations, len(sigmas))
    images = coco.matched_images(
        truth, coco.results_index(annotations, results, len(sigmas)), sigmas, MATCH_OKS
    )
    counted = sorted(
        int(number)
        for image in images
        for number, ignored in zip(image["gtIds"], image["gtIgnore"], strict=True)
        if not ignored
    )
    index = {number: place for place, number in enumerate(counted)}
    found = {  # COCOeval's ids count from 1 in the order of the results
        int(number) - 1: index.get(int(person), -1)
        for image in images
        for number, person, ignored in zip(
            image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
        )
        if not ignored
    }
    people = [truth.anns[number] for number in counted]
    scores = np.array([results[i]["score"] for i in range(len(results))], np.float64)
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if i in found]
    shape = (-1, len(sigmas), 3)
    return Matches(
        scores[order],
        np.array([results[i]["keypoints"] for i in order], np.float64).reshape(shape),
        np.array([found[i] for i in order], np.int64),
        np.array([person["keypoints"] for person in people], np.float64).reshape(shape),
        np.array([person["area"] for person in people], np.float64),
        np.array([person["bbox"] for person in people], np.float64).reshape(-1, 4),
    )
