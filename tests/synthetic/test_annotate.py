"""The depth and identity buffers, and what is read from them."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np
import pytest

from mipnet.synthetic.annotate import label_keypoints, polygons, silhouette_boxes, visible_fractions
from mipnet.synthetic.crowd_layout import SceneLayout, compose, draw_plan
from mipnet.synthetic.raster import Buffers, Outline


def drawn(count: int) -> list[tuple[SceneLayout, Buffers]]:
    r = Random(11)
    out: list[tuple[SceneLayout, Buffers]] = []
    while len(out) < count:
        layout = compose(r, draw_plan(r, "hard"))
        if layout is not None:
            out.append((layout, Buffers(layout.outline, layout.anchors, layout.scales)))
    return out


def balls(*radii: float) -> Outline:
    """A sphere for each person, at 1 px per metre around its anchor."""
    rows = np.array([[-a, -a, a, a, 0, 0, 0, a**-2, 0, a**-2, 0, 0, a, a, a, a, a] for a in radii])
    n = len(radii)
    return Outline(np.arange(n), np.ones(n, dtype=bool), rows, rows[:, :4])


def test_a_sphere_is_a_disc_of_the_right_size_and_depth() -> None:
    b = Buffers(balls(10.0), np.array([[60.0, 50.0, 7.0]]), np.array([2.0]))
    assert np.count_nonzero(b.masks[0]) / 4 == pytest.approx(np.pi * 20**2, rel=0.01)
    assert silhouette_boxes(b)[0] == pytest.approx([40, 30, 40, 40], abs=0.6)
    assert b.depth.max() == pytest.approx(7.0 + 20.0, abs=0.05)


def test_nearer_parts_win_and_the_silhouette_stays_full() -> None:
    anchors = np.array([[60.0, 50.0, 0.0], [70.0, 50.0, 50.0]])
    b = Buffers(balls(20.0, 20.0), anchors, np.ones(2))
    assert b.identity[100, 130] == 2
    assert b.identity[100, 90] == 1
    assert np.count_nonzero(b.masks[0]) == np.count_nonzero(b.masks[1])
    assert np.count_nonzero(b.identity == 1) < np.count_nonzero(b.masks[0])


def test_what_leaves_the_image_is_clipped() -> None:
    b = Buffers(balls(20.0, 20.0), np.array([[0.0, 50.0, 0.0], [-90.0, 50.0, 0.0]]), np.ones(2))
    assert silhouette_boxes(b)[0] == pytest.approx([0, 30, 20, 40], abs=0.6)
    assert not silhouette_boxes(b)[1].any()
    assert np.count_nonzero(b.masks[1]) == 0


def test_polygon_of_a_ring_keeps_its_hole() -> None:
    mask = np.zeros((80, 80), dtype=np.uint8)
    cv2.circle(mask, (40, 40), 30, 1, -1)
    cv2.circle(mask, (40, 40), 18, 0, -1)
    found = polygons(mask.astype(bool), 10, 20)
    area = sum(cv2.contourArea(np.float32(p).reshape(-1, 1, 2)) for p in found)
    assert area == pytest.approx(np.count_nonzero(mask) / 4, rel=0.05)
    assert np.reshape(found[0], (-1, 2)).min(0) == pytest.approx([10, 15], abs=0.6)


def test_visibility_follows_the_depth_buffer() -> None:
    hidden = 0
    for layout, b in drawn(25):
        parts, labels = layout.parts, label_keypoints(b, layout)
        for i, (scale, anchor) in enumerate(zip(layout.scales, layout.anchors, strict=True)):
            points = parts.keypoints[i] * scale + anchor
            for (x, y, z), (lx, ly, v) in zip(points, labels[i], strict=True):
                if v == 0:
                    continue
                assert (lx + 0.5, ly + 0.5) == pytest.approx((x, y), abs=1e-3)
                row, column = int(y * 2), int(x * 2)
                top = int(b.identity[row, column])
                if v == 1:  # something is really in front of the joint
                    assert top > 0
                    assert b.depth[row, column] > z
                    hidden += 1
                elif b.depth[row, column] > z:  # only the person's own surface may lie over the joint
                    assert parts.person[top - 1] == i
                    assert b.depth[row, column] - z < 0.2 * scale
    assert hidden > 100


def test_visible_fractions_add_up_to_the_picture() -> None:
    for layout, b in drawn(8):
        shown = visible_fractions(b, layout.parts)
        pixels = sum(f * np.count_nonzero(m) for f, m in zip(shown, b.masks, strict=True))
        assert pixels == pytest.approx(np.count_nonzero(b.identity))
        assert min(shown) < 1.0
