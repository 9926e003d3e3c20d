from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.data.geometry import (
    box_to_crop,
    clip_box,
    crop_affine,
    flip_center,
    flip_keypoints,
    mirrored_affine,
    transform_keypoints,
    transform_points,
    warp_crop,
)
from mipnet.skeletons import COCO17, CROWDPOSE14

steady = settings(deadline=None, derandomize=True)
INPUT_SIZES = ((192, 256), (288, 384), (64, 96), (128, 128))
sizes = st.sampled_from(INPUT_SIZES)
boxes = st.tuples(
    st.floats(-50, 600), st.floats(-50, 600), st.floats(0, 700), st.floats(0, 700)
)  # boxes without any area included
rotations = st.floats(-180, 180)
points = st.lists(st.tuples(st.floats(-100, 800), st.floats(-100, 800)), min_size=1, max_size=5)


def test_clip_box_by_hand() -> None:
    boxes = [[10, 20, 30, 40], [-10, -20, 30, 40], [90, 70, 30, 40], [200, 200, 5, 5], [10, 10, 0, 0]]
    expected = [[10, 20, 29, 39], [0, 0, 29, 39], [90, 70, 9, 9], [200, 200, 0, 0], [10, 10, 0, 0]]
    np.testing.assert_array_equal(clip_box(boxes, 100, 80), expected)
    np.testing.assert_array_equal(clip_box(boxes[2], 100, 80), expected[2])


def test_box_to_crop_widens_the_shorter_side_and_pads() -> None:
    center, size = box_to_crop([[10, 20, 30, 100], [10, 20, 90, 60]], (192, 256))
    np.testing.assert_allclose(center, [[25, 70], [55, 50]])
    np.testing.assert_allclose(size, [[93.75, 125], [112.5, 150]])
    one_center, one_size = box_to_crop([10, 20, 90, 60], (192, 256), padding=1.0)
    np.testing.assert_allclose(one_center, [55, 50])
    np.testing.assert_allclose(one_size, [90, 120])


def test_affine_sends_centre_and_up_where_they_belong() -> None:
    affine = crop_affine([50, 60], [96, 128], 30.0, (192, 256))
    np.testing.assert_allclose(transform_points(affine, np.array([50, 60])), [96, 128])
    up = np.array([np.sin(np.pi / 6), -np.cos(np.pi / 6)])  # (0, -1) turned by 30 degrees, 10 px long
    np.testing.assert_allclose(transform_points(affine, np.array([50, 60]) + 10 * up), [96, 128 - 20])


@steady
@given(boxes, rotations, sizes, st.booleans(), points)
def test_crop_and_back_is_the_identity(box, rotation, input_size, flip, where) -> None:
    affine = crop_affine(*box_to_crop(box, input_size), rotation, input_size)
    if flip:
        affine = mirrored_affine(affine, 640)
    inverse = cv2.invertAffineTransform(affine)
    np.testing.assert_allclose(
        transform_points(inverse, transform_points(affine, np.array(where))), where, atol=1e-6
    )
    composed = np.vstack([affine, [0, 0, 1]]) @ np.vstack([inverse, [0, 0, 1]])
    np.testing.assert_allclose(composed, np.eye(3), atol=1e-6)


@steady
@given(boxes, rotations, sizes)
def test_crop_shows_its_box(box, rotation, input_size) -> None:
    affine = crop_affine(*box_to_crop(box, input_size), 0.0, input_size)
    x, y, w, h = box
    corners = transform_points(affine, np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]))
    assert (corners >= -1e-6).all()
    assert (corners <= np.array(input_size) + 1e-6).all()


@steady
@given(st.sampled_from((COCO17, CROWDPOSE14)), st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_flipping_twice_is_the_identity(skeleton, width, seed) -> None:
    keypoints = np.random.default_rng(seed).integers(0, 2000, (2, skeleton.num_joints, 3)).astype(float)
    center = keypoints[0, 0, :2]
    once = flip_keypoints(keypoints, width, skeleton.flip_permutation)
    assert not np.array_equal(once, keypoints)
    np.testing.assert_array_equal(flip_keypoints(once, width, skeleton.flip_permutation), keypoints)
    np.testing.assert_array_equal(flip_center(flip_center(center, width), width), center)


def test_flip_by_hand() -> None:
    keypoints = np.array([[0.0, 5, 2], [3, 6, 1], [9, 7, 0]])
    expected = [[9, 5, 2], [0, 7, 0], [6, 6, 1]]
    np.testing.assert_array_equal(flip_keypoints(keypoints, 10, (0, 2, 1)), expected)
    assert keypoints[0, 0] == 0  # the argument stays as it was


@steady
@given(boxes, rotations, sizes, points)
def test_mirrored_affine_is_mirror_then_affine(box, rotation, input_size, where) -> None:
    affine = crop_affine(*box_to_crop(box, input_size), rotation, input_size)
    where = np.array(where)
    mirrored = np.column_stack([640 - 1 - where[:, 0], where[:, 1]])
    np.testing.assert_allclose(
        transform_points(mirrored_affine(affine, 640), where), transform_points(affine, mirrored), atol=1e-6
    )


@pytest.mark.parametrize("rotation", [0.0, 17.0, -75.0])
@pytest.mark.parametrize("box", [(20, 30, 90, 110), (-20, 60, 150, 170), (70.3, 40.8, 33.1, 61.7)])
def test_mirrored_crop_equals_crop_of_the_mirrored_image(box, rotation) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (200, 177, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (5, 5), 0)
    affine = crop_affine(*box_to_crop(box, (96, 128)), rotation, (96, 128))
    whole = warp_crop(np.ascontiguousarray(image[:, ::-1]), affine, (96, 128))
    folded = warp_crop(image, mirrored_affine(affine, 177), (96, 128))
    assert whole.shape == (128, 96, 3)
    assert whole.std() > 5
    assert np.abs(whole.astype(int) - folded.astype(int)).max() <= 1


def test_warp_of_the_identity_and_black_outside() -> None:
    image = np.random.default_rng(0).integers(1, 256, (40, 30, 3), dtype=np.uint8)
    shifted = warp_crop(image, np.array([[1.0, 0, 5], [0, 1, 0]]), (30, 40))
    np.testing.assert_array_equal(shifted[:, 5:], image[:, :-5])
    assert (shifted[:, :5] == 0).all()


def test_joints_outside_the_crop_are_hidden_and_bounds_are_inside() -> None:
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    keypoints = np.array(
        [
            [0, 0, 2],
            [64, 96, 1],
            [64.01, 5, 2],
            [5, 96.01, 2],
            [-0.01, 5, 2],
            [5, -0.01, 2],
            [5, 5, 0],
            [7, 8, 1],
        ]
    )
    expected = keypoints * np.array([1, 1, 0, 0, 0, 0, 0, 1])[:, None]
    np.testing.assert_array_equal(transform_keypoints(identity, keypoints, (64, 96)), expected)
    batch = transform_keypoints(identity, np.stack([keypoints, keypoints[::-1]]), (64, 96))
    np.testing.assert_array_equal(batch[1], expected[::-1])
