"""The choice of an operating point: the scores of the best F1 on poses that are matched to people."""

from __future__ import annotations

import numpy as np

from mipnet.evaluation.matching import MATCH_OKS, Matches
from mipnet.evaluation.oks import Sigmas
from mipnet.evaluation.operating_point import OperatingPoint


def best_f1_threshold(scores: np.ndarray, hits: np.ndarray, positives: int) -> float | None:
    """The threshold above which what is kept has the highest F1 = 2 · hits / (kept + positives).

    It lies halfway between the lowest score that is kept and the next lower one (0, if all are kept), so that
    rounding does not move a score across it. Equal scores are kept or dropped together. Of thresholds with
    the same F1 it is the highest, which keeps the fewest.

    Args:
        scores: (M,) finite, in any order.
        hits: (M,) bool, which of them are right.
        positives: how many there are to be found.

    Returns:
        None if nothing is right.
    """
    scores, hits = np.asarray(scores, np.float64), np.asarray(hits, bool)
    if not hits.any():
        return None
    levels, index = np.unique(-scores, return_inverse=True)  # distinct scores, falling
    kept = np.bincount(index).cumsum()
    right = np.bincount(index, weights=hits).cumsum()
    best = int(np.argmax(2 * right / (kept + positives)))  # the first of equal ones
    lowest, below = -levels[best], -levels[best + 1] if best + 1 < len(levels) else min(0.0, -levels[best])
    return float((lowest + below) / 2)


def choose_operating_point(matches: Matches, sigmas: Sigmas, source: str) -> OperatingPoint | None:
    """The operating point of best F1, see ``best_f1_threshold``; of poses first, then of their joints.

    A pose is right if it finds a person (``match_poses``), and there are as many to be found as people. The
    joints are those of the kept poses that find a person. A joint is right if the person's is labelled and
    its OKS alone is 0.5 or more; there are as many to be found as these people have labelled ones. A joint
    that the person has no label for is wrong: it is out of the picture or hidden.

    Args:
        matches: of the poses of the validation split.
        sigmas: (K,) OKS constants.
        source: the box source.

    Returns:
        None if no pose finds a person.
    """
    pose_score = best_f1_threshold(matches.scores, matches.hits, len(matches.keypoints))
    if pose_score is None:
        return None
    poses, people = matches.found()
    kept = matches.scores[poses] >= pose_score
    right = np.nan_to_num(matches.joint_oks(sigmas)[kept]) >= MATCH_OKS
    labelled = int((matches.keypoints[people[kept], :, 2] > 0).sum())
    joint_score = best_f1_threshold(matches.poses[poses[kept], :, 2].ravel(), right.ravel(), labelled)
    return OperatingPoint(pose_score, joint_score or 0.0, source)
