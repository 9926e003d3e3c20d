"""The contact sheet of training crops: the samples that the network gets, in their order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mipnet.config.schema import AugmentConfig, TargetConfig
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings
from mipnet.data.image_index import ImageIndex
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader
from mipnet.skeletons import COCO17
from mipnet.visualization import training_crops as crops
from mipnet.visualization.training_crops import training_grid


def schedule_of(people: PersonAnnotations) -> SampleSchedule:
    return SampleSchedule(people.image_offsets, seed=3, epochs=2, batch_size=8, window_batches=4)


def settings(instances: int = 2) -> CropSettings:
    return CropSettings((48, 64), 1.25, instances, COCO17, AugmentConfig())


@pytest.mark.parametrize(("instances", "rows"), [(1, 4), (2, 4), (3, 4), (9, 4)])
def test_each_crop_comes_once_per_instance(
    small_people: PersonAnnotations, monkeypatch: pytest.MonkeyPatch, instances: int, rows: int
) -> None:
    drawn = []
    grid = crops.picture_grid
    monkeypatch.setattr(
        crops, "picture_grid", lambda *args, **kwargs: drawn.append(args) or grid(*args, **kwargs)
    )
    picture = training_grid(small_people, schedule_of(small_people), settings(instances))
    assert picture is not None
    assert picture.dtype == np.uint8
    cells, titles = drawn[0]
    assert len(cells) == rows
    assert len(titles) == len(cells[0]) == max(8 // instances, 1) * instances
    assert titles[:instances] == [f"λ = {i}" for i in range(instances)]


def test_the_pixels_are_those_of_the_first_batch(
    small_people: PersonAnnotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(
        crops, "draw_poses", lambda crop, poses, *_, **__: shown.append((crop.copy(), poses)) or crop
    )
    schedule = schedule_of(small_people)
    training_grid(small_people, schedule, settings())
    block = CropLoader(small_people, schedule, settings()).load(0)
    for place, (crop, poses) in enumerate(shown):
        slot, instance = divmod(place, 2)
        assert (crop == block["image"][slot]).all()
        joints = block["keypoints"][slot, instance]
        np.testing.assert_array_equal(poses[0]["keypoints"][:, :2], joints[:, :2])
        np.testing.assert_array_equal(poses[0]["keypoints"][:, 2], joints[:, 2] / 2)
    assert len(shown) == 2 * 16


def test_images_that_cannot_be_read_are_passed_over(small_people: PersonAnnotations) -> None:
    gone = ImageIndex(np.array(["/nowhere.jpg"] * len(small_people.images)), small_people.images.ids)
    assert (
        training_grid(dataclasses.replace(small_people, images=gone), schedule_of(small_people), settings())
        is None
    )
    some = ImageIndex(small_people.images.uris.copy(), small_people.images.ids)
    some.uris[:6] = "/nowhere.jpg"
    assert (
        training_grid(dataclasses.replace(small_people, images=some), schedule_of(small_people), settings())
        is not None
    )


def test_targets_are_shown_where_the_joints_are(
    small_people: PersonAnnotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    grid = crops.picture_grid
    monkeypatch.setattr(
        crops, "picture_grid", lambda *args, **kwargs: drawn.append(args) or grid(*args, **kwargs)
    )
    training_grid(small_people, schedule_of(small_people), settings(), TargetConfig(sigma=1.0))
    cells, titles = drawn[0]
    assert titles[:4] == ["λ = 0", "targets", "λ = 1", "targets"]
    assert len(cells[0]) == len(titles) == 8

    crop = np.zeros((64, 48, 3), np.uint8)
    joints = np.zeros((2, 17, 3), np.float32)
    joints[1, 0] = [20, 40, 2]
    first, second = crops.target_pictures(crop, joints, TargetConfig(sigma=1.0))
    assert not first.any()  # nobody is labelled there
    assert np.unravel_index(second[..., 0].argmax(), (64, 48)) == (40, 20)
    assert second[40, 20].tolist() == crops.HEATMAP_COLOUR.tolist()
