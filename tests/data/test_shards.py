"""Packed data sets: the same people, order and pixels, whatever interrupts the packing."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mipnet.cli.main import main
from mipnet.config.schema import AugmentConfig, DataConfig
from mipnet.data.crops import CropSettings
from mipnet.data.dataset_formats import open_split
from mipnet.data.image_index import missing_files
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.shards import UNFINISHED, PackedImage, PackingJob, byte_ranges, pack, verify
from mipnet.data.stream import CropLoader
from mipnet.errors import DataError
from mipnet.skeletons import COCO17
from mipnet.storage import Folder


@pytest.fixture
def packing(small_coco: Folder, tmp_path: Path) -> PackingJob:
    images = [PackedImage(f"{i}.jpg", i, "[]") for i in range(12)]
    return PackingJob(small_coco.join("train"), Folder.of(tmp_path / "packed" / "train"), images, 5, {})


def command(source: Folder, out: Path, *more: str) -> int:
    flags = ["--data", source.uri, "--splits", "train", "--shard-images", "5", *more]
    return main(["data", "pack", str(out), *flags])


def test_training_on_it_sees_the_same(small_coco, small_people, tmp_path, capsys):
    assert command(small_coco, tmp_path / "packed", "--verify") == 0
    assert "verified: every image is the same" in capsys.readouterr().out
    packed = open_split(DataConfig(), Folder.of(tmp_path / "packed"), "train").people()
    assert all("shard-0000" in uri for uri in packed.images.uris)
    assert missing_files(packed.images) == []
    for name in ("image_offsets", "ids", "boxes", "keypoints"):
        assert np.array_equal(getattr(packed, name), getattr(small_people, name))
    settings = CropSettings((32, 48), 1.25, 2, COCO17, AugmentConfig())
    plain = CropLoader(small_people, SampleSchedule(small_people.image_offsets, 0, 2, 8, 2), settings)
    for window in range(plain.schedule.num_windows):
        a, b = plain.load(window), replace(plain, people=packed).load(window)
        assert all(np.array_equal(a[k], b[k]) for k in a)
        assert not b["corrupt"].any()


def test_shards_are_tables_for_anybody(small_coco, tmp_path):
    command(small_coco, tmp_path / "packed")
    table = pq.read_table(tmp_path / "packed" / "train" / "shard-00001.parquet").to_pydict()
    assert len(table["name"]) == 5
    assert table["image"][0] == small_coco.read(f"train/{table['name'][0]}")
    assert json.loads(table["people"][0])[0]["image_id"] == table["image_id"][0]
    manifest = json.loads((tmp_path / "packed" / "train" / "pack.json").read_text())
    assert (manifest["images"], manifest["people"], len(manifest["shards"])) == (12, 30, 3)
    assert manifest["settings"]["annotations"].keys() == {"annotations/person_keypoints_train.json"}


def test_it_goes_on_after_an_interruption(packing, small_coco, monkeypatch):
    monkeypatch.setattr("mipnet.data.shards.PACKING_THREADS", 1)

    def interrupt(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(packing, interrupt)
    target = packing.target
    assert target.exists(UNFINISHED)
    parent = Folder.of(Path(target.uri).parent)
    parent.write(
        "annotations/person_keypoints_train.json", small_coco.read("annotations/person_keypoints_train.json")
    )
    with pytest.raises(DataError, match="not packed to its end"):
        open_split(DataConfig(), parent, "train").people()

    before = (Path(target.uri) / "shard-00000.parquet").stat()
    manifest = pack(packing)
    after = (Path(target.uri) / "shard-00000.parquet").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert manifest["images"] == 12
    assert not target.exists(UNFINISHED)
    assert verify(target, packing.source) == []
    assert pack(packing) == manifest  # nothing is left to do


def test_a_pack_of_something_else_is_not_mixed_in(packing):
    pack(packing)
    with pytest.raises(DataError, match="another packed data set"):
        pack(replace(packing, per_shard=4))


def test_damage_is_found(packing):
    pack(packing)
    name = Path(packing.target.uri) / "shard-00001.parquet"
    content = bytearray(name.read_bytes())
    content[len(content) // 2] ^= 1
    name.write_bytes(content)
    assert verify(packing.target) == ["shard-00001.parquet has changed since it was written"]
    name.unlink()
    assert verify(packing.target) == ["shard-00001.parquet is missing"]


@pytest.mark.parametrize(
    ("keep", "words"),
    [(None, "is missing; "), (0, "is damaged ("), (200, "is damaged ("), (-9, "is damaged (")],
)
def test_a_damaged_index_is_said(packing, keep, words):
    pack(packing)
    index = Path(packing.target.uri) / "index.parquet"
    if keep is None:
        index.unlink()
    else:
        index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(DataError) as caught:
        byte_ranges(packing.target)
    assert str(caught.value).startswith(f"{index} {words}")
    assert str(caught.value).endswith("; copy the packed folder again, or remove it and pack again")


def test_only_files_of_boxes_are_copied(small_coco, tmp_path):
    shutil.copytree(small_coco.local_path, tmp_path / "data")
    (tmp_path / "data/boxes/.ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "data/boxes/det_train.json").write_text("[]")
    assert command(Folder.of(tmp_path / "data"), tmp_path / "packed") == 0
    assert [path.name for path in (tmp_path / "packed/boxes").iterdir()] == ["det_train.json"]


def test_an_image_that_is_not_there_is_named(packing):
    images = [*packing.images, PackedImage("gone.jpg", 99, "[]")]
    manifest = pack(replace(packing, images=images))
    assert manifest["missing"] == ["gone.jpg"]
    assert manifest["images"] == 12
    assert verify(packing.target) == []


def test_a_piece_beyond_the_end_is_an_error(packing):
    pack(packing)
    with pytest.raises(OSError, match="shorter"):
        packing.target.read("shard-00000.parquet#100000000+10")


def test_what_an_older_version_packed_as_tiles_is_refused(small_coco, tmp_path, capsys):
    """They lay in a folder of their own, beside the images or instead of them."""
    assert command(small_coco, tmp_path / "packed") == 0
    (tmp_path / "packed/train/tiles-person_keypoints_train").mkdir()
    for argv, status in ((["train"], 2), (["data", "check", "--data.train", "train"], 1)):
        assert main([*argv, "--data", str(tmp_path / "packed"), "--storage", str(tmp_path)]) == status
        said = "".join(capsys.readouterr())
        assert "tiles-person_keypoints_train was packed with --tiles, which no longer exists; pack" in said


def test_mistakes_are_said(small_coco, tmp_path, capsys):
    assert main(["data", "pack"]) == 2
    assert main(["data", "pack", str(tmp_path / "x")]) == 2
    assert command(small_coco, Path(small_coco.uri)) == 2
    said = capsys.readouterr().err
    assert "needs a folder" in said
    assert "--data is needed" in said
    assert "is the data set itself" in said


def test_joints_of_ones_own(small_coco, tmp_path):
    own = {"joints": list(COCO17.joints), "sigmas": [0.05] * 17, "flip_pairs": []}
    (tmp_path / "own.yaml").write_text(json.dumps(own))  # JSON is YAML
    assert command(small_coco, tmp_path / "packed", "--data.skeleton", str(tmp_path / "own.yaml")) == 0
    manifest = json.loads((tmp_path / "packed" / "train" / "pack.json").read_text())
    assert manifest["settings"]["skeleton"]["joints"] == list(COCO17.joints)


def test_it_is_one_file_a_shard(packing):
    pack(packing)
    file = pq.ParquetFile(io.BytesIO(packing.target.read("shard-00000.parquet")))
    assert file.metadata.num_rows == 5
    assert file.metadata.row_group(0).column(3).compression == "UNCOMPRESSED"
