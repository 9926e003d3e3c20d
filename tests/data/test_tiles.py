"""Tiles: they hold all that any augmentation can show, and training on them is the same but for the order."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.cli import main
from mipnet.commands.checks import check_split
from mipnet.commands.phases import keep_order
from mipnet.config import preset
from mipnet.config.schema import AugmentConfig, DataConfig, InputConfig
from mipnet.data.crops import CropSettings, Part, crop_settings, cut_crop
from mipnet.data.geometry import clip_box
from mipnet.data.layouts import open_split
from mipnet.data.pack import pack, verify
from mipnet.data.records import People, absent
from mipnet.data.stream import WindowCutter
from mipnet.data.tiles import check_limits
from mipnet.data.tiling import GRID, encode, tile_box
from mipnet.data.windows import WindowPlan
from mipnet.errors import DataError
from mipnet.report.crops import training_grid
from mipnet.runs import Run
from mipnet.skeletons import COCO17
from mipnet.storage import Folder

SETTINGS = CropSettings((64, 96), 1.25, 2, COCO17, AugmentConfig())
AS_PAPER = ["--augment.scale", "0.35", "--augment.rotation", "45", "--augment.half-body", "0.3"]
TILED = "tiles-person_keypoints_train"


def command(source: Folder, out: Path, *more: str) -> int:
    flags = ["--data", source.uri, "--splits", "train", "--shard-images", "5", "--tiles", *AS_PAPER, *more]
    return main(["data", "pack", str(out), *flags])


@pytest.fixture(scope="module")
def packed(small_coco: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    out = tmp_path_factory.mktemp("packed")
    assert command(small_coco, out) == 0
    return Folder.of(out)


@pytest.fixture(scope="module")
def tiled(packed: Folder) -> People:
    return open_split(DataConfig(), packed, "train").people()[0]


def cutter_of(people: People, crops: CropSettings = SETTINGS) -> WindowCutter:
    return WindowCutter(people, WindowPlan(people.groups, 5, 2, 8, 2), crops)


def by_sample(cutter: WindowCutter) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """All samples of a plan by (epoch, sample)."""
    found = {}
    for window in range(cutter.plan.num_windows):
        block = cutter.cut(window)
        for i, key in enumerate(zip(block["epoch"].tolist(), block["sample"].tolist(), strict=True)):
            found[key] = {name: block[name][i] for name in ("image", "joints", "people", "corrupt")}
    return found


class Extreme:
    """Random numbers for ``draw_augmentation``, every other one as far out as it may ever be."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def random(self, count: int) -> np.ndarray:
        return self.rng.random(count)

    def standard_normal(self, count: int) -> np.ndarray:
        return np.where(
            self.rng.random(count) < 0.5, self.rng.choice([-9.0, 9.0], count), self.rng.uniform(-2, 2, count)
        )


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    image_size=st.tuples(st.integers(20, 500), st.integers(20, 500)),
    crop_size=st.sampled_from([(64, 96), (96, 64), (48, 64)]),
    augment=st.builds(
        AugmentConfig,
        scale=st.sampled_from([0.0, 0.35, 0.9]),
        rotation=st.sampled_from([0.0, 10.0, 25.0, 45.0, 80.0]),
        rotation_probability=st.sampled_from([0.0, 1.0]),
        shift=st.sampled_from([0.0, 0.1, 0.5]),
        half_body=st.sampled_from([0.0, 1.0]),
        half_body_min_joints=st.sampled_from([3, 8]),
    ),
)
def test_a_tile_covers_every_augmentation(seed, image_size, crop_size, augment):
    rng = np.random.default_rng(seed)
    width, height = image_size
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    x, y, w, h = rng.uniform([0, 0, 3, 3], [0.8 * width, 0.8 * height, 0.2 * width + 3, 0.2 * height + 3])
    boxes = clip_box(np.array([[x, y, w, h], [y, x, h, w]]), width, height)
    joints = np.concatenate([rng.uniform([x, y], [x + w, y + h], (2, 17, 2)), np.full((2, 17, 1), 2.0)], -1)
    joints[0, :, 2] *= rng.random(17) < 0.8
    crops = CropSettings(crop_size, 1.25, 2, COCO17, augment)
    left, top, right, bottom = tile_box(boxes[0], joints[0], crops, image_size)
    assert (left % GRID, top % GRID) == (0, 0)
    tile = np.ascontiguousarray(image[top:bottom, left:right])
    for draw in range(8):
        plain, from_tile = np.empty((2, crop_size[1], crop_size[0], 3), np.uint8)
        args = boxes, joints, 0, crops
        expected = cut_crop(image, *args, Extreme(draw), plain)
        found = cut_crop(tile, *args, Extreme(draw), from_tile, Part(left, top, width))
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
        # The same up to the rounding of coordinates, which lie elsewhere in the tile.
        assert np.abs(plain.astype(int) - from_tile).max() <= 1


def test_a_tile_is_not_larger_than_it_must_be():
    box, joints = np.array([200.0, 150, 40, 60]), np.zeros((17, 3))
    still = AugmentConfig(scale=0, rotation=0, half_body=0)
    left, top, right, bottom = tile_box(box, joints, replace(SETTINGS, augment=still), (640, 480))
    # The crop is 50 x 75 px around (220, 180), and may begin up to a block earlier.
    assert 195 - 2 - GRID <= left <= 195 - 2
    assert right - 245 <= 3
    assert 142 - 2 - GRID <= top <= 142 - 2
    assert bottom - 218 <= 3


def test_training_on_them_differs_in_the_order_alone(tiled, small_people):
    assert tiled.tiles is not None
    assert absent(tiled.pictures) == []
    for name in ("first", "ids", "boxes", "keypoints"):
        assert np.array_equal(getattr(tiled, name), getattr(small_people, name))
    ours, plain = by_sample(cutter_of(tiled)), by_sample(cutter_of(small_people))
    assert {key for key in ours if key[0] < 2} == {(e, s) for e in (0, 1) for s in range(30)}
    apart = []
    for key in ours.keys() & plain.keys():
        assert np.array_equal(ours[key]["joints"], plain[key]["joints"])
        assert np.array_equal(ours[key]["people"], plain[key]["people"])
        assert not ours[key]["corrupt"]
        apart.append(np.abs(ours[key]["image"].astype(int) - plain[key]["image"]))
    assert len(apart) >= 60
    assert np.mean(apart) < 1
    assert np.max(apart) <= 16


def test_a_plan_by_images_is_refused(tiled):
    with pytest.raises(ValueError, match="make it from their groups"):
        WindowCutter(tiled, WindowPlan(tiled.first, 5, 2, 8, 2), SETTINGS)


def test_their_windows_are_a_pure_function_and_mix_all_images(tiled, small_people):
    one, other = cutter_of(tiled), cutter_of(replace(tiled))
    for window in range(one.plan.num_windows):
        a, b = one.cut(window), other.cut(window)
        assert all(np.array_equal(a[name], b[name]) for name in a)
    _, _, sample, _ = one.plan.samples(0)
    images = np.searchsorted(small_people.first, sample, side="right")
    together = [
        np.ptp(np.flatnonzero(images == image)) + 1 > (images == image).sum() for image in set(images)
    ]
    assert any(together)  # people of an image stand apart, which no plan by images allows


def test_what_is_packed(packed, small_coco):
    assert not packed.exists("train/pack.json")  # nobody reads the images
    folder = packed.join(f"train/{TILED}")
    manifest = json.loads(folder.read("pack.json"))
    assert (manifest["images"], manifest["people"], manifest["pictures"]) == (12, 30, 30)
    assert len(manifest["shards"]) == 3
    assert manifest["settings"]["tiles"]["augment.scale"] == 0.35
    assert manifest["settings"]["tiles"]["input.size"] == [64, 96]
    assert manifest["settings"]["jpeg"] == {"quality": 95, "sampling": "4:4:4"}
    assert manifest["settings"]["annotations"].keys() == {"annotations/person_keypoints_train.json"}
    table = pq.read_table(Path(folder.uri) / "shard-00001.parquet").to_pydict()
    (person,) = json.loads(table["people"][0])
    assert table["name"][0] == f"{person['id']}.jpg"
    assert table["image_id"][0] == person["image_id"]
    assert table["image_width"][0] == 120
    assert verify(folder) == []


def test_the_error_is_said_and_damage_is_found(small_coco, tmp_path, capsys, monkeypatch):
    assert command(small_coco, tmp_path / "good", "--verify") == 0
    said = capsys.readouterr().out
    assert "verified: every tile shows its part of the image" in said
    assert "30 training crops from tiles and from images: 0." in said
    assert "% by more than 8" in said
    monkeypatch.setattr("mipnet.data.tiling.encode", lambda pixels: encode(pixels[::-1]))
    assert command(small_coco, tmp_path / "bad", "--verify") == 2
    assert "100.jpg differs from" in capsys.readouterr().err


def test_it_goes_on_after_an_interruption(small_coco, tmp_path, monkeypatch):
    monkeypatch.setattr("mipnet.data.pack.THREADS", 1)
    packings = []

    def interrupted(packing, progress):
        packings.append(packing)

        def stop(done: int, of: int) -> None:
            raise KeyboardInterrupt

        return pack(packing, stop)

    with monkeypatch.context() as patch:
        patch.setattr("mipnet.data.pack.pack", interrupted)
        assert command(small_coco, tmp_path) == 130
    with pytest.raises(DataError, match="not packed to its end"):
        open_split(DataConfig(), Folder.of(tmp_path), "train").people()
    shard = tmp_path / "train" / TILED / "shard-00000.parquet"
    before = shard.stat()
    assert command(small_coco, tmp_path) == 0
    assert (before.st_ino, before.st_mtime_ns) == (shard.stat().st_ino, shard.stat().st_mtime_ns)
    assert verify(packings[0].target, packings[0].source, packings[0].differs) == []
    assert command(small_coco, tmp_path, "--augment.scale", "0.5") == 2  # that is another packed data set


def test_an_unreadable_image_is_named_and_its_people_are_black(small_coco, tmp_path, capsys):
    shutil.copytree(small_coco.local_path, tmp_path / "plain")
    (tmp_path / "plain/train/3.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / "plain/train/5.jpg").unlink()
    assert command(Folder.of(tmp_path / "plain"), tmp_path / "out", "--verify") == 0
    assert "left out  2 x image that cannot be read: 3.jpg, 5.jpg" in capsys.readouterr().out
    people, _ = open_split(DataConfig(), Folder.of(tmp_path / "out"), "train").people()
    out = tmp_path / "out/train"
    assert set(absent(people.pictures)) == {str(out / "3.jpg"), str(out / "5.jpg")}
    lost = {s for s in range(30) if people.image_of(s) in (3, 5)}
    for (_, sample), found in by_sample(cutter_of(people)).items():
        assert found["corrupt"] == (sample in lost)
        assert not (sample in lost and found["image"].any())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"augment": {"scale": 0.5}}, r"augment.scale 0.5 reaches beyond .* cut for 0.35; .*scale 0.35, or"),
        ({"augment": {"rotation": 60.0}}, "augment.rotation 60"),
        ({"augment": {"shift": 0.1}}, "augment.shift 0.1"),
        ({"augment": {"half_body_min_joints": 5}}, "--augment.half-body-min-joints 8"),
        ({"padding": 1.5}, "input.padding 1.5"),
        ({"size": (192, 256)}, "crops of 192x256 have another shape than those of 64x96"),
    ],
)
def test_what_reaches_farther_is_refused(tiled, changed, says):
    changed = {k: replace(AugmentConfig(), **v) if k == "augment" else v for k, v in changed.items()}
    with pytest.raises(DataError, match=says):
        cutter_of(tiled, replace(SETTINGS, **changed))


def test_what_reaches_less_far_is_not(tiled):
    assert tiled.tiles is not None
    less = AugmentConfig(scale=0.1, rotation=90, rotation_probability=0, half_body=0, half_body_min_joints=2)
    check_limits(tiled.tiles, replace(SETTINGS, size=(128, 192), augment=less))


def test_only_training_reads_them(packed, tiled, small_coco):
    config = replace(preset("tiny"), augment=AugmentConfig(), data=DataConfig(root=packed.uri))
    file = open_split(config.data, packed, "train")
    assert check_split(config, packed, "train", file, (), True) == []
    with pytest.raises(DataError, match="packed as tiles, which only training reads; evaluate another"):
        check_split(config, packed, "train", file, ("gt",), False)
    wide = replace(config, input=InputConfig(96, 96))
    with pytest.raises(DataError, match="another shape"):
        check_split(wide, packed, "train", file, (), True)
    plan, crops = WindowPlan(tiled.groups, 0, 1, 8, 2), crop_settings(config)
    by_image = WindowPlan(tiled.first, 0, 1, 8, 2)
    assert training_grid(tiled, plan, crops) is not None
    assert training_grid(replace(tiled, tiles=None), by_image, crops) is None


def test_a_run_goes_on_with_what_it_began_with(tiled, small_people, tmp_path):
    run = Run("run", Folder.of(tmp_path), preset("tiny"))
    keep_order(run, tiled)
    keep_order(run, tiled)
    run.reload()
    with pytest.raises(DataError, match="run run began with tiles and would go on with images"):
        keep_order(run, small_people)


def test_the_benchmark_needs_images(packed, capsys, tmp_path):
    flags = ["--data", packed.uri, "--data.train", "train", "--bare", "--storage", str(tmp_path)]
    assert main(["bench", "stream", *flags]) == 2
    assert "train in" in (said := capsys.readouterr().err)
    assert "is packed as tiles, and the plain loader reads images" in said


def test_a_split_that_is_evaluated_too_keeps_its_images(small_coco, tmp_path, capsys):
    wanted = ["--data.tune", "train", "--data.evaluate", "train", "--data.boxes", "gt"]
    assert command(small_coco, tmp_path, "--data.tune", "train") == 0
    people, _ = open_split(DataConfig(), Folder.of(tmp_path), "train").people()
    assert people.tiles is not None
    assert absent(people.images) == absent(people.pictures) == []
    assert main(["data", "check", "--data", str(tmp_path), *wanted, "--augment.scale", "0.3"]) == 0
    assert main(["data", "check", "--data", str(tmp_path), *wanted, "--augment.scale", "0.5"]) == 2
    assert "training would stop: augment.scale 0.5 reaches beyond" in capsys.readouterr().out


def test_the_check_reads_tiles_where_there_are_no_images(small_coco, tmp_path, capsys):
    shutil.copytree(small_coco.local_path, tmp_path / "plain")
    shutil.copytree(tmp_path / "plain/train", tmp_path / "plain/val")
    labels = tmp_path / "plain/annotations"
    shutil.copy(labels / "person_keypoints_train.json", labels / "person_keypoints_val.json")
    wanted = ["--data.tune", "val", "--data.evaluate", "val", "--data.boxes", "gt"]
    flags = ["--data", str(tmp_path / "plain"), "--tiles", "--verify", *wanted]
    assert main(["data", "pack", str(tmp_path / "out"), *flags]) == 0
    capsys.readouterr()
    checked = ["--data", str(tmp_path / "out"), *wanted, "--pictures", str(tmp_path / "look")]
    assert main(["data", "check", *checked]) == 0
    said = capsys.readouterr().out
    assert "ready to train" in said
    assert "cannot be read" not in said
    assert "not of the size" not in said
    assert (tmp_path / "look/train.jpg").exists()


def test_tiles_of_a_split_that_is_not_packed(small_coco, tmp_path, capsys):
    flags = ["--data", small_coco.uri, "--splits", "train", "--tiles", "--data.train", "other"]
    assert main(["data", "pack", str(tmp_path), *flags]) == 2
    assert (
        "--tiles are for the split to train on, other, which is not among --splits" in capsys.readouterr().err
    )
