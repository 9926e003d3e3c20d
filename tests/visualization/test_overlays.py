"""Pictures of poses: what is drawn, where, and what is left alone."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest

from mipnet.skeletons import COCO17, CROWDPOSE14
from mipnet.visualization.overlays import (
    PALETTE,
    contact_sheet,
    distinct_colours,
    draw_poses,
    encode_jpeg,
    picture_grid,
)

# A standing person of 100 x 150 px, from nose to right ankle.
PERSON = np.array(
    [
        *[[50, 12], [54, 9], [46, 9], [60, 11], [40, 11], [66, 32], [34, 32], [76, 56], [26, 54]],
        *[[84, 76], [18, 72], [60, 80], [40, 80], [62, 112], [38, 112], [62, 142], [40, 142]],
    ],
    np.float64,
)
GREY = np.full((320, 600, 3), 128, np.uint8)


def result(x: float, y: float, *, scale: float = 1.5, score: float = 1.0, **more: Any) -> dict[str, Any]:
    joints = np.column_stack([PERSON * scale + (x, y), np.full(17, score)])
    return {"image_id": 1, "category_id": 1, "keypoints": joints.ravel().tolist(), "score": 0.9} | more


def changed(picture: np.ndarray, image: np.ndarray = GREY) -> np.ndarray:
    """(H, W) bool: where the picture is not the image."""
    return (picture != image).any(axis=-1)


def shoulder_line(picture: np.ndarray, x: int, y: int) -> np.ndarray:
    """The pixels of the limb between the shoulders of ``result(x, y)``, its ends left out."""
    return picture[y + 48, x + 60 : x + 90].astype(int)


def test_each_person_has_its_own_colour() -> None:
    picture = draw_poses(GREY, [result(10 + 190 * i, 20) for i in range(3)], COCO17)
    seen = [shoulder_line(picture, 10 + 190 * i, 20).mean(axis=0) for i in range(3)]
    for i, colour in enumerate(seen):
        np.testing.assert_allclose(colour, PALETTE[i], atol=3)
    for a, b in combinations(PALETTE, 2):
        assert np.linalg.norm(a - b) > 60


def test_colours_can_be_given_and_repeat_after_the_palette() -> None:
    people = [result(10, 20), result(200, 20)]
    picture = draw_poses(GREY, people, COCO17, colours=[4, len(PALETTE) + 1])
    np.testing.assert_allclose(shoulder_line(picture, 10, 20).mean(axis=0), PALETTE[4], atol=3)
    np.testing.assert_allclose(shoulder_line(picture, 200, 20).mean(axis=0), PALETTE[1], atol=3)
    with pytest.raises(ValueError, match="zip"):
        draw_poses(GREY, people, COCO17, colours=[1])


def test_neighbours_in_a_crowd_differ_in_colour() -> None:
    crowd = np.array([PERSON * 0.2 + (30 * column, 40 * row) for row in range(5) for column in range(8)])
    numbers = distinct_colours(np.dstack([crowd, np.ones((40, 17))]))
    assert numbers[:10] == list(range(10))
    grid = np.array(numbers).reshape(5, 8)
    assert (np.bincount(numbers, minlength=10) >= 2).all()
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        assert (grid[dy:, dx:] != grid[: 5 - dy, : 8 - dx]).all()
    assert (grid[1:, :-1] != grid[:-1, 1:]).all()
    nowhere = np.full((1, 17, 3), np.nan)
    assert len(distinct_colours(np.vstack([nowhere, nowhere]))) == 2


def test_left_is_lighter_than_right() -> None:
    picture = draw_poses(GREY, [result(10, 20)], COCO17).astype(int)
    left, right = ((np.array(PERSON[k]) * 1.5 + (10, 20)).astype(int) for k in (15, 16))  # ankles
    assert picture[left[1], left[0]].sum() > picture[right[1], right[0]].sum() + 100


def test_joints_below_the_threshold_and_their_limbs_are_not_drawn() -> None:
    person = result(10, 20)
    person["keypoints"][3 * 10 + 2] = 0.19  # right wrist
    without = draw_poses(GREY, [person], COCO17)
    x, y = (PERSON[10] * 1.5 + (10, 20)).astype(int)
    near_wrist = (slice(y - 10, y + 10), slice(x - 10, x + 10))
    assert not changed(without)[near_wrist].any()
    person["keypoints"][3 * 10 + 2] = 0.21
    assert changed(draw_poses(GREY, [person], COCO17))[near_wrist].any()
    halfway = ((PERSON[8] + PERSON[10]) / 2 * 1.5 + (10, 20)).astype(int)
    assert not changed(without)[halfway[1], halfway[0]]
    person["keypoints"][3 * 10 + 2] = 0.45
    assert changed(draw_poses(GREY, [person], COCO17, min_joint_score=0.4))[near_wrist].any()
    assert not changed(draw_poses(GREY, [person], COCO17, min_joint_score=0.5))[near_wrist].any()


def test_unsure_joints_are_fainter_and_smaller() -> None:
    sure, unsure = (draw_poses(GREY, [result(10, 20, score=s)], COCO17) for s in (1.0, 0.3))
    assert changed(unsure).sum() < 0.8 * changed(sure).sum()
    distance = [np.abs(shoulder_line(p, 10, 20) - 128).mean() for p in (sure, unsure)]
    assert distance[1] < 0.8 * distance[0]


def test_only_pixels_near_the_pose_and_the_box_change() -> None:
    x, y, w, h = box = (150.0, 10.0, 180.0, 290.0)
    for instance in (0, 1):
        person = result(180, 40, box=box, instance=instance)
        mask = changed(draw_poses(GREY, [person], COCO17))
        allowed = np.zeros(GREY.shape[:2], np.uint8)
        cv2.rectangle(allowed, (int(x), int(y)), (int(x + w), int(y + h)), 1, 7)
        points = (PERSON * 1.5 + (180, 40)).astype(int)
        for a, b in COCO17.limbs:
            cv2.line(allowed, points[a].tolist(), points[b].tolist(), 1, 15)
        if instance:  # the tag above the head
            allowed[5:30, 240:285] = 1
        assert not (mask & (allowed == 0)).any()
        assert mask[int(y) + 100, int(x)]
        assert mask[points[:, 1], points[:, 0]].all()


def test_a_pose_without_sure_joints_is_its_box_alone() -> None:
    person = result(180, 40, score=0.1, box=(150, 10, 180, 290), instance=1)
    mask = changed(draw_poses(GREY, [person], COCO17))
    assert mask[100, 150]
    assert not mask[15:290, 155:325].any()


def test_a_shared_box_has_the_colour_of_the_primary_person() -> None:
    box = (150, 10, 180, 290)
    second, first = result(180, 40, box=box, instance=1), result(160, 40, box=box)
    picture = draw_poses(GREY, [second, first], COCO17)
    alone = draw_poses(GREY, [first], COCO17, colours=[1])
    np.testing.assert_array_equal(picture[280:305, 140:340], alone[280:305, 140:340])


def test_a_second_instance_is_dashed_hollow_and_tagged() -> None:
    primary, second = (draw_poses(GREY, [result(180, 60, instance=i)], COCO17) for i in (0, 1))
    thigh = np.linspace(PERSON[12], PERSON[14], 60)[8:-8] * 1.5 + (180, 60)
    on_limb = thigh.round().astype(int)
    assert changed(primary)[on_limb[:, 1], on_limb[:, 0]].all()
    assert not changed(second)[on_limb[:, 1], on_limb[:, 0]].all()
    assert changed(second)[on_limb[:, 1], on_limb[:, 0]].any()
    x, y = (PERSON[5] * 1.5 + (180, 60)).astype(int)  # a shoulder
    assert second[y, x].min() > 245 > primary[y, x].min()
    above = (slice(30, 66), slice(220, 300))
    assert changed(second)[above].sum() > 300
    assert not changed(primary)[above].any()
    third = draw_poses(GREY, [result(180, 60, instance=2)], COCO17)
    assert (third[above] != second[above]).any()  # the number on the tag
    outside = changed(third, second)
    outside[above] = False
    assert not outside.any()


def test_tags_of_close_people_do_not_overlap() -> None:
    tag_pixels = []
    for people in ([0], [1], [0, 1]):
        both = [result(180, 60, instance=1), result(183, 60, instance=1)]
        mask = changed(draw_poses(GREY, [both[i] for i in people], COCO17, colours=people))
        tag_pixels.append(mask[:66].sum())
    assert tag_pixels[2] > 1.8 * tag_pixels[0]


@pytest.mark.parametrize("side", [300, 1000, 6000])
def test_lines_are_as_wide_as_fits_person_and_picture(side: int) -> None:
    image = np.full((side // 2, side, 3), 128, np.uint8)
    widths = []
    for share in (0.4, 0.1):  # of the picture's longer side
        scale = share * side / 150
        mask = changed(draw_poses(image, [result(0, 0, scale=scale)], COCO17, longer_side=1), image)
        y = round(0.5 * (PERSON[12] + PERSON[14])[1] * scale)  # in the middle of a thigh
        widths.append(int(mask[y, : int(50 * scale)].sum()))
    assert max(2, side / 400) <= widths[1] < widths[0] <= max(5, side / 70)


def test_tags_leave_out_faces_and_are_left_out_where_they_do_not_fit() -> None:
    crowd = [result(12 + 36 * i, 5 + 30 * (i % 7), scale=0.6, instance=1) for i in range(15)]
    tagged, bare = (
        draw_poses(GREY, people, COCO17) for people in (crowd, [r | {"instance": 0} for r in crowd])
    )
    faces = np.zeros(GREY.shape[:2], bool)
    for person in crowd:
        points = np.array(person["keypoints"]).reshape(17, 3)[:5, :2]
        low, high = points.min(axis=0) - 3, points.max(axis=0) + 3
        faces[int(low[1]) : int(high[1]), int(low[0]) : int(high[0])] = True
    hollow = changed(bare, GREY)  # what differs beside the poses' own pixels is a tag
    tags = changed(tagged, GREY) & ~hollow
    assert tags.sum() > 500
    assert not (tags & faces).any()
    full = [result(x, y, scale=0.3, instance=1) for x in range(-20, 600, 24) for y in range(-20, 320, 18)]
    without = [r | {"instance": 0} for r in full]
    crowded = changed(draw_poses(GREY, full, COCO17)) & ~changed(draw_poses(GREY, without, COCO17))
    assert crowded.sum() == 0


def test_the_image_is_not_changed_and_small_ones_are_enlarged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    before = image.copy()
    picture = draw_poses(image, [result(10, 5, scale=0.5)], COCO17)
    np.testing.assert_array_equal(image, before)
    assert picture.shape == (400, 520, 3)
    assert picture.dtype == np.uint8
    large = draw_poses(GREY, [result(10, 20)], COCO17)
    assert large.shape == GREY.shape
    assert not np.shares_memory(large, GREY)


def test_joints_stay_on_their_pixel_when_the_image_is_enlarged() -> None:
    image = np.full((8, 8, 3), 128, np.uint8)
    person = {"keypoints": [2.0, 5.0, 1.0] * 17}  # all joints in the middle of pixel (2, 5)
    mask = changed(draw_poses(image, [person], COCO17), np.full((512, 512, 3), 128, np.uint8))
    y, x = (coordinates.mean() for coordinates in np.nonzero(mask))
    np.testing.assert_allclose([x, y], [2.5 * 64 - 0.5, 5.5 * 64 - 0.5], atol=0.05)


def test_the_first_pose_lies_on_top() -> None:
    picture = draw_poses(GREY, [result(10, 20), result(10, 20)], COCO17)
    np.testing.assert_allclose(shoulder_line(picture, 10, 20).mean(axis=0), PALETTE[0], atol=3)


def test_a_tag_at_the_border_stays_inside_and_off_the_head() -> None:
    primary, second = (draw_poses(GREY, [result(180, -8, instance=i)], COCO17) for i in (0, 1))
    beside = (slice(0, 22), slice(285, 360))
    assert changed(second)[beside].sum() > 300
    assert not changed(primary)[beside].any()
    at_right = draw_poses(GREY, [result(555, 60, instance=1)], COCO17)  # its head is outside
    assert changed(at_right)[30:66, 560:].sum() > 300


def test_without_results_the_enlarged_image_comes_back() -> None:
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    expected = cv2.resize(image, (512, 384), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(draw_poses(image, [], COCO17), expected)
    np.testing.assert_array_equal(draw_poses(image, [], COCO17, longer_side=1), image)


@pytest.mark.filterwarnings("error")
def test_poses_partly_or_wholly_outside_the_image() -> None:
    people = [
        result(-60, -30, instance=1),
        result(560, 280, instance=1),
        result(1e6, -1e6, instance=1),
        result(0, 0, scale=0),  # all joints in one point
    ]
    people[0]["keypoints"][0] = float("nan")
    people[1]["box"] = (float("nan"), 10, 20, 20)
    picture = draw_poses(GREY, people, COCO17)
    assert changed(picture).any()
    assert not changed(picture)[140:250, 200:500].any()


def test_other_skeletons_and_wrong_shapes() -> None:
    pose = {"keypoints": np.column_stack([PERSON[3:] * 1.5 + 10, np.ones(14)]).ravel().tolist()}
    assert changed(draw_poses(GREY, [pose], CROWDPOSE14)).any()
    with pytest.raises(ValueError, match="reshape"):
        draw_poses(GREY, [pose], COCO17)
    for image in (GREY[..., 0], GREY.astype(np.float32), GREY[:0]):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
            draw_poses(image, [], COCO17)


def test_a_grid_has_equal_cells_and_whole_pictures() -> None:
    wide, tall = np.full((100, 200, 3), (255, 0, 0), np.uint8), np.full((160, 80, 3), (0, 0, 255), np.uint8)
    sheet = picture_grid([[wide, tall], [tall]], ["box", "λ1"], cell=200)
    columns, rows = (12, 12 + 200 + 12), (30, 30 + 200 + 12)  # cells of 200 x 200 px under a head of 30
    assert sheet.shape == (30 + 2 * (200 + 12), 12 + 2 * (200 + 12), 3)
    cells = {
        (r, c): sheet[top : top + 200, left : left + 200]
        for r, top in enumerate(rows)
        for c, left in enumerate(columns)
    }
    assert (cells[0, 0][50:150] == (255, 0, 0)).all()
    assert len(np.unique(cells[0, 0][:50])) == len(np.unique(cells[0, 0][150:])) == 1
    assert (cells[0, 1][:, 50:150] == (0, 0, 255)).all()
    np.testing.assert_array_equal(cells[1, 0], cells[0, 1])
    assert (cells[1, 1] == 255).all()
    for left in columns:
        assert sheet[:30, left : left + 200].min() < 60  # its title
    assert (sheet[:, :12] == 255).all()


def test_grid_captions_are_written_and_shortened() -> None:
    picture = np.full((90, 120, 3), 99, np.uint8)
    plain = picture_grid([[picture]], ["merged"], cell=120)
    sheet = picture_grid([[picture]], ["a title far too long for it"], ["a caption " * 9], cell=120)
    assert sheet.shape == (plain.shape[0] + 26, plain.shape[1], 3)
    assert sheet[:30].min() < 60
    assert sheet[30:56].min() < 60
    assert (sheet[:, 12 + 120 :] == 255).all()


def test_a_contact_sheet_has_every_picture_under_its_caption() -> None:
    tints = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    pictures = [np.full((60, 40 + 10 * i, 3), tint, np.uint8) for i, tint in enumerate(tints)]
    sheet = contact_sheet(pictures, [f"{i}.jpg" for i in range(5)], cell=60)
    assert sheet.shape == (30 + 60 + 12 + 30 + 51 + 12, 12 + 3 * (60 + 12), 3)  # as high as the row's highest
    for i, tint in enumerate(tints):
        rows, _ = np.nonzero((sheet == tint).all(axis=-1))
        assert len(rows) >= 0.9 * pictures[i][..., 0].size * (60 / max(pictures[i].shape[:2])) ** 2
        assert (rows >= 102).any() == (i >= 3)


@pytest.mark.parametrize(
    ("rows", "titles", "captions"),
    [([], ["a"], []), ([[]], ["a"], []), ([[GREY, GREY]], ["a"], []), ([[GREY]], ["a"], ["b", "c"])],
)
def test_impossible_grids(rows: list[list[np.ndarray]], titles: list[str], captions: list[str]) -> None:
    with pytest.raises(ValueError, match="pictures for"):
        picture_grid(rows, titles, captions)


def test_jpeg_keeps_colour_order() -> None:
    content = encode_jpeg(np.full((16, 16, 3), (200, 100, 50), np.uint8))
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_allclose(decoded[8, 8], (200, 100, 50), atol=4)
