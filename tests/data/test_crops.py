"""Training crops: augmentation moves pixels and joints together, and λ gets its people."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.config.schema import AugmentConfig
from mipnet.data.crops import (
    CropSettings,
    assign_instances,
    colour_table,
    crop_boxes,
    decode_image,
    draw_augmentation,
    make_training_crop,
    read_image,
)
from mipnet.data.geometry import box_to_crop, crop_affine, warp_crop
from mipnet.skeletons import COCO17

PLAIN = AugmentConfig(flip=0, scale=0, rotation=0, rotation_probability=0, half_body=0)


def settings(augment: AugmentConfig = PLAIN, instances: int = 2) -> CropSettings:
    return CropSettings((64, 96), 1.25, instances, COCO17, augment)


def person(x: float, y: float, w: float = 40, h: float = 60) -> tuple[np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(np.linspace(x, x + w, 5), np.linspace(y, y + h, 4)), -1).reshape(-1, 2)[:17]
    return np.array([x, y, w, h]), np.column_stack([grid, np.full(17, 2)])


def people(*where: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    boxes, joints = zip(*(person(*w) for w in where), strict=True)
    return np.array(boxes), np.array(joints)


def crop_into(
    out: np.ndarray,
    image: np.ndarray,
    boxes: np.ndarray,
    keypoints: np.ndarray,
    settings: CropSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The training crop of the first person."""
    return make_training_crop(image, boxes, keypoints, primary=0, settings=settings, rng=rng, out=out)


@pytest.mark.parametrize("seed", range(8))
def test_a_mark_on_a_joint_stays_on_it_through_every_augmentation(seed):
    """A white square at the nose must lie where the crop says that the nose is."""
    augment = AugmentConfig(flip=0.5, scale=0.2, rotation=30, rotation_probability=1, shift=0.05, half_body=0)
    boxes, joints = people((50, 40))
    nose = joints[0, 0, :2] + [20, 30]
    joints[0, 0, :2] = nose
    image = np.zeros((160, 200, 3), np.uint8)
    x, y = np.round(nose).astype(int)
    image[y - 3 : y + 4, x - 3 : x + 4] = 255
    out = np.zeros((96, 64, 3), np.uint8)
    moved, _ = crop_into(out, image, boxes, joints, settings(augment), np.random.default_rng(seed))
    rows, columns = np.nonzero(out[..., 0] > 127)
    assert abs(columns.mean() - moved[0, 0, 0]) < 1
    assert abs(rows.mean() - moved[0, 0, 1]) < 1


def test_flip_swaps_left_and_right():
    boxes, joints = people((50, 40))
    image = np.zeros((160, 200, 3), np.uint8)
    out = np.zeros((96, 64, 3), np.uint8)
    plain, _ = crop_into(out, image, boxes, joints, settings(), np.random.default_rng(0))
    flip = settings(AugmentConfig(flip=1, scale=0, rotation=0, rotation_probability=0, half_body=0))
    mirrored, _ = crop_into(out, image, boxes, joints, flip, np.random.default_rng(0))
    left, right = COCO17.joints.index("left_wrist"), COCO17.joints.index("right_wrist")
    assert mirrored[0, left, 1] == pytest.approx(plain[0, right, 1])
    assert mirrored[0, left, 0] == pytest.approx(64 - plain[0, right, 0], abs=1.1)


def test_instances_with_fewer_people_than_lambdas():
    boxes, joints = people((50, 40))
    assert assign_instances(boxes, joints, 0, 3).tolist() == [0, 0, 0]


def test_instances_nearest_first_and_only_with_more_than_three_joints():
    boxes, joints = people((100, 40), (200, 40), (60, 40), (110, 40))
    joints[3, 3:] = 0  # the nearest one has three joints in the crop: not enough
    assert assign_instances(boxes, joints, 0, 2).tolist() == [0, 2]
    assert assign_instances(boxes, joints, 0, 3).tolist() == [0, 2, 1]
    assert assign_instances(boxes, joints, 0, 4).tolist() == [0, 2, 1, 0]  # N > n: the primary again
    joints[3, 3] = [1, 1, 2]  # the fourth joint makes it count
    assert assign_instances(boxes, joints, 0, 2).tolist() == [0, 3]
    assert assign_instances(boxes, joints, 2, 2).tolist() == [2, 0]


def test_half_body_crops_to_one_half():
    boxes, joints = people((50, 20))
    joints[0, :11, 1] = np.linspace(20, 45, 11)
    joints[0, 11:, 1] = np.linspace(60, 80, 6)
    image = np.zeros((160, 200, 3), np.uint8)
    half = settings(AugmentConfig(flip=0, scale=0, rotation=0, rotation_probability=0, half_body=1))
    outside = []
    for seed in range(20):
        out = np.zeros((96, 64, 3), np.uint8)
        moved, _ = crop_into(out, image, boxes, joints, half, np.random.default_rng(seed))
        centre = moved[0, :11] if moved[0, :11, 2].all() else moved[0, 11:]
        outside.append((moved[0, :, 2] == 0).sum())
        assert centre[:, 2].all()
    assert max(outside) > 0


def test_upper_body_share_is_the_references():
    augment = AugmentConfig(half_body=1)
    upper = [draw_augmentation(np.random.default_rng(i), augment).upper for i in range(2000)]
    assert np.mean(upper) == pytest.approx(0.69, abs=0.03)


def test_scale_and_rotation_stay_in_the_papers_range():
    draws = [draw_augmentation(np.random.default_rng(i), AugmentConfig()) for i in range(2000)]
    scales, angles = np.array([d.scale for d in draws]), np.array([d.rotation for d in draws])
    assert (scales.min(), scales.max()) == (0.65, 1.35)
    assert np.abs(angles).max() == 90
    assert np.mean(angles != 0) == pytest.approx(0.6, abs=0.03)


def test_decode_refuses_rubbish():
    assert decode_image(b"rubbish") is None
    assert decode_image(b"") is None


def test_a_file_that_cannot_be_read_has_no_pixels(small_coco, tmp_path):
    pixels = read_image(small_coco.path("train/0.jpg"))
    assert np.array_equal(pixels, decode_image(small_coco.read("train/0.jpg")))
    (tmp_path / "rubbish.jpg").write_bytes(b"rubbish")
    for name in ("rubbish.jpg", "none.jpg", ""):
        assert read_image(f"{tmp_path}/{name}") is None


def test_crops_of_boxes_are_those_of_each_box_alone():
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    boxes = np.array([[50, 40, 30, 60], [-20, 100, 90, 20], [7.25, 3.5, 100.1, 9]])
    crops, centers, sizes = crop_boxes(image, boxes, (64, 96), 1.3)
    for box, crop, center, size in zip(boxes, crops, centers, sizes, strict=True):
        expected = box_to_crop(box, (64, 96), 1.3)
        assert np.array_equal([center, size], expected)
        assert np.array_equal(crop, warp_crop(image, crop_affine(*expected, 0.0, (64, 96)), (64, 96)))


def test_half_body_follows_the_mirrored_person():
    """The half that is cut out must be found where flipping has put it."""
    boxes, joints = people((10, 20))  # far from the image's middle, so a missed flip shows
    image = np.zeros((160, 200, 3), np.uint8)
    both = settings(AugmentConfig(flip=1, scale=0, rotation=0, rotation_probability=0, half_body=1))
    halves = set()
    for seed in range(10):
        out = np.zeros((96, 64, 3), np.uint8)
        moved, _ = crop_into(out, image, boxes, joints, both, np.random.default_rng(seed))
        halves.add((moved[0, :11, 2].all(), moved[0, 11:, 2].all()))
    assert halves == {(True, False), (False, True)}


def test_half_body_needs_more_visible_joints_than_the_setting():
    boxes, joints = people((50, 20))
    joints[0, 8:, 2] = 0
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)

    def crop(half_body: float, least: int) -> np.ndarray:
        change = AugmentConfig(
            flip=0,
            scale=0,
            rotation=0,
            rotation_probability=0,
            half_body=half_body,
            half_body_min_keypoints=least,
        )
        out = np.zeros((96, 64, 3), np.uint8)
        crop_into(out, image, boxes, joints, settings(change), np.random.default_rng(0))
        return out

    assert np.array_equal(crop(1, 8), crop(0, 8))  # 8 joints are not more than 8
    assert not np.array_equal(crop(1, 7), crop(0, 7))


def test_colour_changes_each_channel_around_mid_grey():
    assert np.array_equal(colour_table(np.ones(3), 0.0)[:, 0, 1], np.arange(256))
    table = colour_table(np.array([1.0, 2.0, 0.0]), 10 / 255)[:, 0]
    assert table[100].tolist() == [110, 82, 138]
    assert table[0].tolist() == [10, 0, 138]
    assert table[255].tolist() == [255, 255, 138]


def test_colour_is_the_table_on_the_uncoloured_crop():
    boxes, joints = people((50, 40))
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    plain, coloured = np.zeros((2, 96, 64, 3), np.uint8)
    bright = AugmentConfig(flip=0, scale=0, rotation=0, rotation_probability=0, half_body=0, colour=0.3)
    crop_into(plain, image, boxes, joints, settings(), np.random.default_rng(4))
    crop_into(coloured, image, boxes, joints, settings(bright), np.random.default_rng(4))
    change = draw_augmentation(np.random.default_rng(4), bright)
    table = colour_table(change.gains, change.offset)[:, 0]
    expected = np.stack([table[plain[..., c], c] for c in range(3)], -1)
    assert np.array_equal(coloured, expected)
    assert not np.array_equal(coloured, plain)


def test_one_setting_does_not_change_anothers_luck():
    always = AugmentConfig(rotation_probability=1)
    base = draw_augmentation(np.random.default_rng(3), always)
    other = AugmentConfig(rotation_probability=1, flip=0, half_body=0, colour=0.2)
    changed = draw_augmentation(np.random.default_rng(3), other)
    assert (base.scale, base.rotation, base.upper) == (changed.scale, changed.rotation, changed.upper)
