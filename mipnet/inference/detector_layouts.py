"""What exported detectors take and give: how a picture is fitted into their input, and their boxes out of it.

The layouts are those of RF-DETR (``rfdetr``), RTMDet (``mmdeploy``), YOLOX and Ultralytics' YOLO, without and
with NMS in the graph. A detector is recognised by the names, shapes and dtypes of what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

Fitting = Literal["stretch", "corner", "centre"]
Outputs = Mapping[str, np.ndarray]
Size = tuple[int, int]  # width, height in px

PADDING = 114  # grey level beside a picture that is not stretched
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
"""Of the grids over which detectors without queries predict."""
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in the detector's input: with padding beside it, or stretched.

    Attributes:
        size: of the input.
        fitting: "stretch" to the input's size; else with the same aspect ratio, in the input's upper left
            "corner" or its "centre", beside ``PADDING``.
        rounding: of the fitted picture's sides to whole px.
        antialias: average over the pixels that become one, as Pillow and torchvision do; OpenCV does not.
    """

    size: Size
    fitting: Fitting
    rounding: Callable[[float], int]
    antialias: bool = False

    def place(self, picture: Size) -> tuple[int, int, int, int]:
        """Left, top, width and height in px of a picture in the input."""
        if self.fitting == "stretch":
            return 0, 0, *self.size
        scale = min(self.size[0] / picture[0], self.size[1] / picture[1])
        width, height = (max(1, self.rounding(side * scale)) for side in picture)
        if self.fitting == "corner":
            return 0, 0, width, height
        # Of an odd number of padded px the larger part is on the right and below.
        left, top = (round((self.size[i] - side) / 2 - 0.1) for i, side in enumerate((width, height)))
        return left, top, width, height

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB as the detector's input (h, w, 3) uint8 RGB."""
        left, top, width, height = self.place((pixels.shape[1], pixels.shape[0]))
        if self.antialias:
            resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        else:
            resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        canvas = np.full((self.size[1], self.size[0], 3), PADDING, np.uint8)
        canvas[top : top + height, left : left + width] = resized
        return canvas

    def boxes_in_picture(self, corners: np.ndarray, picture: Size) -> np.ndarray:
        """Boxes (n, 4) x1, y1, x2, y2 in px of the input as x, y, w, h in px of the picture, clipped to it.

        The scale is that of the fitted picture's whole sides. The frameworks' own code divides by the scale
        before rounding, which is off by up to a px of the input at the far border.
        """
        left, top, width, height = self.place(picture)
        scale = np.array([width / picture[0], height / picture[1]])
        points = (corners.reshape(-1, 2, 2).astype(np.float64) - (left, top)) / scale
        low, high = points.clip(0, picture).transpose(1, 0, 2)
        return np.concatenate([low, high - low], axis=1)


@dataclass(frozen=True)
class Layout:
    """A kind of exported detector.

    Attributes:
        name: for messages.
        rgb: the order of its input's channels; else BGR.
        mean, std: (3,) of the input's normalization, in grey levels and the order of its channels.
        frame: input size -> where a picture lies in it.
        decode: outputs, and the input's size -> (B, M, 4) x1, y1, x2, y2 in px of the input and (B, M)
            scores of the class, whose index is the last argument.
        classes: how many it tells apart; 0 where the outputs do not say.
        nms: whether overlapping boxes of one person have to be suppressed.
    """

    name: str
    rgb: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    frame: Callable[[Size], Letterbox]
    decode: Callable[[Outputs, Size, int], tuple[np.ndarray, np.ndarray]]
    classes: int
    nms: bool

    def normalize(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs (B, h, w, 3) uint8 RGB as (B, 3, h, w) float32 in the network's colour order."""
        count, height, width, _ = inputs.shape
        images = np.empty((count, 3, height, width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            source = inputs[..., channel if self.rgb else 2 - channel]
            np.subtract(source, np.float32(mean), out=images[:, channel])  # without a copy as large as all
            images[:, channel] /= np.float32(std)
        return images


def recognise(outputs: Outputs, size: Size, extra: int = 0) -> Layout | None:
    """The layout of a detector by its answer to an even grey picture; None if it is none of those known.

    Args:
        outputs: of a batch of one.
        size: of the input.
        extra: values of each box beside its box and classes, such as a pose model's keypoints.
    """
    shapes = {name: value.shape for name, value in outputs.items()}
    if {"dets", "labels"} <= shapes.keys():
        dets, labels = outputs["dets"], outputs["labels"]
        if dets.ndim != 3 or labels.shape[:2] != dets.shape[:2] or dets.dtype.kind != "f":
            return None
        if dets.shape[2] == 4 and labels.ndim == 3 and labels.dtype.kind == "f":
            return rf_detr(labels.shape[2])
        return RTMDET if dets.shape[2] == 5 and labels.ndim == 2 and labels.dtype.kind in "iu" else None
    first = next(iter(outputs.values()))
    if first.ndim != 3 or first.dtype.kind != "f":
        return None
    _, rows, columns = first.shape
    for strides in STRIDES:
        anchors = len(grid_centers(size, strides)[0])
        if rows == anchors and columns > 5:
            # Centres of decoded boxes reach as far as the picture; raw ones are offsets of a few cells.
            decoded = bool(np.nanmax(first[..., 0]) > size[0] / 4)
            return yolox(columns - 5, None if decoded else strides)
        if columns == anchors and rows > 4 + extra:
            return ultralytics(rows - 4 - extra)
    return ULTRALYTICS_END_TO_END if columns == 6 + extra and rows <= 1000 else None


def grid_centers(size: Size, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(A, 2) cell numbers x, y of all grids, row by row, and (A, 1) their strides in px."""
    cells, widths = [], []
    for stride in strides:
        y, x = np.mgrid[: size[1] // stride, : size[0] // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        widths.append(np.full((x.size, 1), stride))
    return np.concatenate(cells), np.concatenate(widths)


def corners_of(centered: np.ndarray) -> np.ndarray:
    """Boxes (…, 4) centre x, y, width, height as x1, y1, x2, y2."""
    middle, half = centered[..., :2], centered[..., 2:4] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def half_up(length: float) -> int:
    return int(length + 0.5)


def rf_detr(classes: int) -> Layout:
    def decode(outputs: Outputs, size: Size, person: int) -> tuple[np.ndarray, np.ndarray]:
        logits = outputs["labels"][..., person].astype(np.float64)
        return corners_of(outputs["dets"]) * [*size, *size], 1 / (1 + np.exp(-logits.clip(-50, 50)))

    def frame(size: Size) -> Letterbox:
        return Letterbox(size, "stretch", round, antialias=True)

    return Layout("RF-DETR", True, IMAGENET_MEAN, IMAGENET_STD, frame, decode, classes, nms=False)


def yolox(classes: int, raw: tuple[int, ...] | None) -> Layout:
    """With the strides of its grids, if its boxes still have to be decoded."""

    def decode(outputs: Outputs, size: Size, person: int) -> tuple[np.ndarray, np.ndarray]:
        found = next(iter(outputs.values())).astype(np.float64)
        centered = found[..., :4]
        if raw:
            cells, strides = grid_centers(size, raw)
            sides = np.exp(centered[..., 2:].clip(max=20)) * strides
            centered = np.concatenate([(centered[..., :2] + cells) * strides, sides], axis=-1)
        return corners_of(centered), found[..., 4] * found[..., 5 + person]

    def frame(size: Size) -> Letterbox:
        return Letterbox(size, "corner", int)

    return Layout("YOLOX", False, (0, 0, 0), (1, 1, 1), frame, decode, classes, nms=True)


def ultralytics(classes: int) -> Layout:
    def decode(outputs: Outputs, size: Size, person: int) -> tuple[np.ndarray, np.ndarray]:
        found = next(iter(outputs.values())).transpose(0, 2, 1)
        return corners_of(found[..., :4]), found[..., 4 + person]

    return Layout("YOLO", True, (0, 0, 0), (255, 255, 255), _centred, decode, classes, nms=True)


def _centred(size: Size) -> Letterbox:
    return Letterbox(size, "centre", round)


def _decode_end_to_end(outputs: Outputs, size: Size, person: int) -> tuple[np.ndarray, np.ndarray]:
    found = next(iter(outputs.values()))
    return found[..., :4], np.where(found[..., 5] == person, found[..., 4], 0)


def _decode_rtmdet(outputs: Outputs, size: Size, person: int) -> tuple[np.ndarray, np.ndarray]:
    dets = outputs["dets"]
    return dets[..., :4], np.where(outputs["labels"] == person, dets[..., 4], 0)


def _corner_half_up(size: Size) -> Letterbox:
    return Letterbox(size, "corner", half_up)


ULTRALYTICS_END_TO_END = Layout(
    "YOLO with NMS", True, (0, 0, 0), (255, 255, 255), _centred, _decode_end_to_end, 0, nms=False
)
RTMDET = Layout(
    "RTMDet",
    False,
    IMAGENET_MEAN[::-1],
    IMAGENET_STD[::-1],
    _corner_half_up,
    _decode_rtmdet,
    0,
    nms=False,
)
