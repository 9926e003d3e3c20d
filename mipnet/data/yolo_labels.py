"""One label file of YOLO-pose: a line for each person, in fractions of the picture's sides.

The class, x and y of the box's centre, its width and height, then of each keypoint x, y and, where
``kpt_shape`` says 3 in place of 2, the visibility.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from mipnet.data.json_values import number
from mipnet.data.validation import Findings

SLACK = 1e-3
"""Share of the picture's side that a value may exceed 0 or 1 by; tools round."""


@dataclass(frozen=True)
class YoloLabel:
    """A person of a label file.

    Attributes:
        index: of the class.
        box: (4,) float64 x and y of the centre, width, height, in fractions of the picture's sides.
        keypoints: (K, 3) float64 x and y in such fractions, and v in {0, 1, 2}; all 0 where v is.
    """

    index: int
    box: np.ndarray
    keypoints: np.ndarray


@dataclass
class LabelReader:
    """Reads label files and counts what they hold.

    Attributes:
        shape: (K, 2) or (K, 3), ``kpt_shape``.
        classes: their indices; empty if they are not known.
        lines: how many were read, without blank ones.
        left_out: lines that cannot be used.
        mended: what was replaced or united.
    """

    shape: tuple[int, int]
    classes: Collection[int] = ()
    lines: int = 0
    left_out: Findings = field(default_factory=Findings)
    mended: Findings = field(default_factory=Findings)

    def read(self, content: bytes, name: str) -> list[YoloLabel]:
        """The people of a label file.

        Args:
            content: of the file.
            name: to call it in findings.
        """
        people = []
        seen = set()
        for place, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
            words = tuple(line.split())
            if not words:
                continue
            self.lines += 1
            where = f"{name} line {place}"
            if words in seen:
                self.mended.add("line that is there again", where)
                continue
            seen.add(words)
            found = self._label(words, where)
            if isinstance(found, str):
                self.left_out.add(found, where)
            else:
                people.append(found)
        return people

    def _label(self, words: tuple[str, ...], where: str) -> YoloLabel | str:
        """The person of a line, or what is wrong with it."""
        count, dims = self.shape
        values = [number(word) for word in words]
        if None in values:
            return "line that is not numbers"
        index, *rest = np.array(values, np.float64)
        if index < 0 or index % 1 or (self.classes and int(index) not in self.classes):
            return "line of a class that data.yaml does not name"
        if len(rest) not in (4, 4 + count * dims):
            return f"line of {len(words)} numbers instead of {5 + count * dims}"
        box = np.array(rest[:4])
        if (box < -SLACK).any() or (box > 1 + SLACK).any():
            return "box that is not in fractions of the picture, 0 to 1"
        if (box[2:] <= 0).any():
            return "box without width or height"
        keypoints = np.zeros((count, 3))
        if len(rest) == 4:
            self.mended.add("line without keypoints, kept as a person without labelled ones", where)
            return YoloLabel(int(index), box, keypoints)
        keypoints[:, :dims] = np.array(rest[4:]).reshape(count, dims)
        if dims == 2:
            keypoints[:, 2] = 2.0 * (keypoints != 0).any(1)
        return YoloLabel(int(index), box, self._checked(keypoints, where))

    def _checked(self, keypoints: np.ndarray, where: str) -> np.ndarray:
        """(K, 3) keypoints whose labelled ones lie in the picture; all others are 0."""
        xy, v = keypoints[:, :2], keypoints[:, 2]
        if not np.isin(v, (0, 1, 2)).all():
            self.mended.add("visibility that is not 0, 1 or 2", where)
            v[:] = np.where(v > 0, np.clip(np.round(v), 1, 2), 0)
        outside = ((xy < -SLACK) | (xy > 1 + SLACK)).any(1) & (v > 0)
        if outside.any():
            self.mended.add("labelled keypoint outside of the picture, taken as not labelled", where)
        keypoints[outside | (v == 0)] = 0
        return keypoints
