"""Small ONNX graphs in the layouts of exported detectors. They find one person: what is red in a picture.

The person's box and score are computed from the network's input after undoing the normalization that the
layout is known for, so a wrong size, place, padding, colour order or normalization shows in what is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mipnet.inference.detector_layouts import grid_centers

Size = tuple[int, int]

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
NORMALIZATION = {  # layout -> red channel, mean and std of its input's channels
    "rf-detr": (0, MEAN, STD),
    "rtmdet": (2, MEAN[::-1], STD[::-1]),
    "yolox": (2, np.zeros(3), np.ones(3)),
    "yolox-raw": (2, np.zeros(3), np.ones(3)),
    "yolo": (0, np.zeros(3), np.full(3, 255)),
    "yolo-end-to-end": (0, np.zeros(3), np.full(3, 255)),
}
LAYOUTS = tuple(NORMALIZATION)
PERSON, CAR = 0, 2  # of COCO's 80 classes


def red_picture(size: Size, box: Sequence[int]) -> np.ndarray:
    """A black picture (H, W, 3) uint8 RGB with a red rectangle x, y, w, h, its edges blurred."""
    x, y, w, h = box
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[y : y + h, x : x + w, 0] = 255
    blurred: np.ndarray = cv2.blur(picture, (9, 9))
    return blurred


class Graph:
    """Nodes of an ONNX graph, each named by its number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.const(each) for each in inputs]
        self.nodes.append(helper.make_node(op, names, [name], **attributes))
        return name

    def over(self, op: str, value: str, axes: Sequence[int], keep: bool = False) -> str:
        return self(op, value, self.const(axes, np.int64), keepdims=int(keep))

    def shaped(self, value: str, shape: Sequence[int]) -> str:
        return self("Reshape", value, self.const(shape, np.int64))


def people(g: Graph, layout: str, size: Size, padding: bool) -> tuple[str, str, str]:
    """Boxes (N, 4, 4) centre x, y, w, h in px of the input, scores (N, 4), classes (4).

    They are the red person; the whole input, its score the grey level of its last pixel; a car; the person
    again, with half the score.
    """
    red, mean, std = NORMALIZATION[layout]
    width, height = size
    pixels = g("Add", g("Mul", "images", std.reshape(1, 3, 1, 1)), mean.reshape(1, 3, 1, 1))
    r, b = (g("Gather", pixels, g.const(channel, np.int64), axis=1) for channel in (red, 2 - red))
    mask = g("Div", g("Relu", g("Sub", r, b)), 255.0)  # (N, H, W)
    columns, rows = g.over("ReduceSum", mask, [1]), g.over("ReduceSum", mask, [2])
    mass = g("Add", g.over("ReduceSum", mask, [1, 2]), 1e-6)
    high, wide = g.over("ReduceMax", columns, [1]), g.over("ReduceMax", rows, [1])
    x = g("Div", g.over("ReduceSum", g("Mul", columns, np.arange(width) + 0.5), [1]), mass)
    y = g("Div", g.over("ReduceSum", g("Mul", rows, np.arange(height) + 0.5), [1]), mass)
    sides = [x, y, g("Div", mass, g("Add", high, 1e-6)), g("Div", mass, g("Add", wide, 1e-6))]
    person = g("Concat", *(g.shaped(side, [-1, 1, 1]) for side in sides), axis=2)  # (N, 1, 4)
    nothing = g("Mul", person, 0.0)
    whole = g("Add", nothing, [width / 2, height / 2, width, height])
    score = g.shaped(g.over("ReduceMax", mask, [1, 2]), [-1, 1])
    last_row = g("Gather", r, g.const(height - 1, np.int64), axis=1)
    last = g("Gather", last_row, g.const(width - 1, np.int64), axis=1)
    corner = g("Mul", g.shaped(g("Div", last, 255.0), [-1, 1]), float(padding))
    boxes = g("Concat", person, whole, person, person, axis=1)
    car = g("Mul", score, 0.9)
    scores = g("Concat", score, corner, car, g("Mul", score, 0.5), axis=1)
    return boxes, g("Clip", scores, 1e-4, 1 - 1e-4), g.const([PERSON, PERSON, CAR, PERSON], np.int64)


def corners(g: Graph, boxes: str) -> str:
    middle, sides = (g("Gather", boxes, g.const(part, np.int64), axis=2) for part in ([0, 1], [2, 3]))
    half = g("Mul", sides, 0.5)
    return g("Concat", g("Sub", middle, half), g("Add", middle, half), axis=2)


def outputs_of(g: Graph, layout: str, size: Size, padding: bool) -> dict[str, str]:
    """Output name -> value of the graph."""
    boxes, scores, classes = people(g, layout, size, padding)
    column = g.shaped(scores, [-1, 4, 1])
    every = g("Mul", column, 0.0)  # (N, 4, 1)
    if layout == "rf-detr":
        logits = g("Log", g("Div", column, g("Sub", 1.0, column)))
        is_person = np.array([1, 1, 0, 0]).reshape(1, 4, 1)  # a detector without duplicates
        mine = g("Add", g("Mul", logits, is_person), -20.0 * (1 - is_person))
        below = [g("Add", every, np.full((1, 1, n), -20.0)) for n in (1, 89)]
        return {
            "dets": g("Div", boxes, [*size, *size]),
            "labels": g("Concat", below[0], mine, below[1], axis=2),
        }
    unique = np.array([1, 1, 1, 0]).reshape(1, 4, 1)
    if layout == "rtmdet":
        labels = g("Add", g("Cast", g.shaped(every, [-1, 4]), to=TensorProto.INT64), classes)
        dets = g("Concat", corners(g, boxes), g("Mul", column, unique), axis=2)
        return {"dets": dets, "labels": labels}
    if layout == "yolo-end-to-end":
        kinds = g("Add", every, np.array([PERSON, PERSON, CAR, PERSON]).reshape(1, 4, 1))
        return {"output0": g("Concat", corners(g, boxes), g("Mul", column, unique), kinds, axis=2)}
    cells, strides = grid_centers(size, (8, 16, 32))
    decoded = np.concatenate([(cells + 0.5) * strides, strides, strides], axis=1)
    one_hot = np.eye(80)[[PERSON, PERSON, CAR, PERSON]][None]
    if layout == "yolo":
        found = g("Concat", boxes, g("Mul", column, one_hot), axis=2)  # (N, 4, 84)
        others = np.pad(decoded, ((0, 0), (0, 80)))
    else:
        if layout == "yolox-raw":
            middle, sides = (g("Gather", boxes, g.const(part, np.int64), axis=2) for part in ([0, 1], [2, 3]))
            middle = g("Sub", g("Div", middle, 8.0), cells[:4][None])
            sides = g("Log", g("Add", g("Div", sides, 8.0), 1e-6))
            boxes = g("Concat", middle, sides, axis=2)
        found = g("Concat", boxes, column, g("Add", every, one_hot), axis=2)  # (N, 4, 85)
        others = np.pad(decoded if layout == "yolox" else 0 * decoded, ((0, 0), (0, 81)))
    batch = g.shaped(g.over("ReduceMax", every, [1]), [-1, 1, 1])
    rest = g("Add", batch, others[4:][None])
    answer = g("Concat", found, rest, axis=1)
    return {"output0": g("Transpose", answer, perm=[0, 2, 1])} if layout == "yolo" else {"output": answer}


def save_detector(
    path: Path,
    layout: str,
    size: Size,
    *,
    batch: int | None = None,
    padding: bool = False,
    metadata: dict[str, str] | None = None,
    half: bool = False,
    dynamic: bool = False,
) -> Path:
    """Write a detector.

    Args:
        path: of the file.
        layout: one of ``LAYOUTS``.
        size: of its input.
        batch: pictures that it takes at once; any number by default.
        padding: find the whole input, too, if its last pixel is bright.
        metadata: of the file.
        half: take float16.
        dynamic: state no size of the input.
    """
    g = Graph()
    if half:
        g.nodes.append(helper.make_node("Cast", ["given"], ["images"], to=TensorProto.FLOAT))
    values = outputs_of(g, layout, size, padding)
    g.nodes += [helper.make_node("Identity", [value], [name]) for name, value in values.items()]
    sides = ["h", "w"] if dynamic else [size[1], size[0]]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    given = helper.make_tensor_value_info("given" if half else "images", kind, [batch or "n", 3, *sides])
    kinds = {"labels": TensorProto.INT64} if layout == "rtmdet" else {}
    outputs = [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in values]
    graph = helper.make_graph(g.nodes, "detector", [given], outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path
