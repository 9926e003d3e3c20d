"""The plain loader makes the same samples as the stream; what the benchmark says of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mipnet.bench.loading import LoaderComparison
from mipnet.bench.plain_loader import PlainLoader, heatmaps
from mipnet.cli.main import main
from mipnet.config.schema import AugmentConfig, DataConfig
from mipnet.data.crops import CropSettings
from mipnet.data.dataset_formats import open_split
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader
from mipnet.models.normalization import normalize
from mipnet.models.targets import heatmap_targets
from mipnet.skeletons import COCO17
from mipnet.storage import Folder


def loading(people, size, augment) -> LoaderComparison:
    settings = CropSettings(size, 1.25, 2, COCO17, augment)
    schedule = SampleSchedule(people.image_offsets, 3, 2, 8, 2)
    return LoaderComparison(CropLoader(people, schedule, settings), PlainLoader(people, settings, 2.0, 3), 40)


def check(both: LoaderComparison, samples: int) -> None:
    found = both.difference(samples)
    assert found.samples == samples
    assert found.largest <= 1
    assert found.share <= 0.001
    assert found.joints == 0


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(colour=0.2, shift=0.1, flip=1.0)])
def test_pixels_of_both_ways_agree(small_people, augment):
    check(loading(small_people, (48, 64), augment), 60)


@pytest.mark.shared
@pytest.mark.parametrize("size", [(192, 256), (288, 384)])
def test_pixels_of_both_ways_agree_on_photographs(shared, size):
    data = DataConfig(train="train2017")
    people = open_split(data, Folder.of(shared / "data" / "coco-mini"), "train2017").people()
    check(loading(people, size, AugmentConfig()), 86)


def test_packed_shards_give_the_same(small_people, tmp_path):
    both = loading(small_people, (48, 64), AugmentConfig())
    packed = both.with_packed_shards(Folder.of(tmp_path))
    assert "shard-" in str(packed.crop_loader.people.images.uris[0])
    check(packed, 60)
    a, b = both.crop_loader.load(1), packed.crop_loader.load(1)
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_a_difference_would_be_seen(small_people):
    both = loading(small_people, (48, 64), AugmentConfig())
    both.plain = replace(both.plain, seed=4)
    found = both.difference(20)
    assert found.largest > 20
    assert found.share > 0.5
    assert found.joints > 1


def test_the_plain_loader_makes_what_the_device_makes(small_people):
    both = loading(small_people, (48, 64), AugmentConfig())
    crop, joints = both.plain.crop(0, 5)
    sample = both.plain.load(0, 5)
    expected = normalize(torch.from_numpy(crop)[None])[0].numpy()
    assert np.allclose(sample["image"], expected, atol=1e-5)
    targets, weights = heatmap_targets(torch.from_numpy(joints)[None], (48, 64), (12, 16), 2.0, "rounded")
    assert np.allclose(sample["target"], targets[0].numpy(), atol=1e-6)
    assert np.array_equal(sample["weight"], weights[0].numpy())
    assert sample["target"].max() == 1


def test_heatmaps_of_joints_at_the_border():
    joints = np.zeros((17, 3), np.float32)
    joints[0], joints[1] = (0, 0, 2), (47.9, 63.9, 1)
    target, weight = heatmaps(joints, (48, 64), 2.0)
    assert weight.tolist() == [1, 1] + [0] * 15
    assert target[0, 0, 0] == 1
    assert target[1, 15, 11] > 0.7
    assert not target[2:].any()


def test_both_ways_go_on_for_as_long_as_asked(small_people):
    both = loading(small_people, (48, 64), AugmentConfig())
    both.samples = 500  # more than the schedule holds
    assert 500 <= both.run_window_loader() < 516
    assert 125 <= both.run_plain_loader() < 133
    fast, plain = both.bytes_per_sample()
    assert plain > 6 * fast


def test_the_command_writes_what_it_says(small_coco, tmp_path, capsys):
    path = tmp_path / "found.json"
    flags = ["--data", small_coco.uri, "--batch-size", "8", "--train.window-batches", "2", "--bare"]
    more = ["--sizes", "64x48", "--samples", "64", "--rounds", "2", "--json", str(path)]
    assert main(["bench", "stream", *flags, *more, "--storage", str(tmp_path / "storage")]) == 0
    said = capsys.readouterr().out
    assert "2.50 per image" in said
    assert "64x48 (height x width)" in said
    found = json.loads(path.read_text())
    loader = found["sizes"]["64x48"]["loader"]
    assert f"x {loader['ways']['windows']['ratio']:.2f}" in said
    assert len(loader["ways"]["plain loader"]["rates"]) == 2
    assert loader["bytes"]["ratio"] > 6
    assert loader["pixels"].keys() == {"files", "packed shards"}
    assert loader["pixels"]["packed shards"]["largest"] <= 1
    assert len(loader["ways"]["windows, packed"]["rates"]) == 2


def test_a_size_that_is_none_is_refused(capsys):
    assert main(["bench", "stream", "--sizes", "big"]) == 2
    assert "'big' is not a size" in capsys.readouterr().err
