"""What only the pixels tell: unreadable files, other sizes, the same picture under two names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mipnet.data.crops import decode_image
from mipnet.data.image_index import ImageIndex
from mipnet.data.image_inspection import (
    MAX_DUPLICATE_BITS,
    ImageInspection,
    fingerprint,
    inspection_of,
    read_columns,
    read_columns_on_ray,
)


def scene(seed: int, width: int = 160, height: int = 120) -> np.ndarray:
    """(height, width, 3) uint8: smooth blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def folder_of(root: Path, pictures: dict[str, np.ndarray | bytes]) -> ImageIndex:
    for name, picture in pictures.items():
        content = picture if isinstance(picture, bytes) else cv2.imencode(".jpg", picture)[1].tobytes()
        (root / name).write_bytes(content)
    return ImageIndex(np.array([str(root / name) for name in pictures]), np.arange(len(pictures)))


def look(images: ImageIndex, size: tuple[int, int] = (160, 120)) -> ImageInspection:
    return inspection_of(images, [size] * len(images), read_columns(images))


def test_unreadable_and_resized_files_are_named(tmp_path: Path) -> None:
    images = folder_of(tmp_path, {"a.jpg": scene(0), "b.jpg": b"no picture", "c.jpg": scene(1, 80)})
    (tmp_path / "d.jpg").mkdir()
    images = ImageIndex(
        np.append(images.uris, [str(tmp_path / "d.jpg"), str(tmp_path / "e.jpg")]), np.arange(5)
    )
    done: list[int] = []
    seen = inspection_of(images, [(160, 120)] * 5, read_columns(images, done.append))
    assert seen.unreadable == [str(tmp_path / f"{name}.jpg") for name in "bde"]
    assert seen.resized == [str(tmp_path / "c.jpg")]
    assert done == [1, 2, 3, 4, 5]
    assert seen.has_content.tolist() == [True, False, True, False, False]


def test_a_picture_saved_again_is_found_in_the_other_split(tmp_path: Path) -> None:
    train = {f"{i}.png": cv2.imencode(".png", scene(i))[1].tobytes() for i in range(20)}
    again = cv2.imencode(".jpg", cv2.resize(scene(7), (110, 90)), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    ours = look(folder_of(tmp_path / "train", train))
    val = folder_of(tmp_path / "val", {"new.jpg": scene(50), "again.jpg": again.tobytes()})
    theirs = look(val)
    assert ours.duplicates_in(theirs) == [(str(tmp_path / "train/7.png"), str(tmp_path / "val/again.jpg"))]
    assert theirs.duplicates_in(ours) == [(str(tmp_path / "val/again.jpg"), str(tmp_path / "train/7.png"))]
    assert ours.duplicates() == []
    nobody = look(folder_of(tmp_path, {}))
    assert ours.duplicates_in(nobody) == nobody.duplicates_in(ours) == []


def test_the_same_picture_twice_and_pictures_of_nothing(tmp_path: Path) -> None:
    black = np.zeros((120, 160, 3), np.uint8)
    pictures = {"a.jpg": scene(0), "b.jpg": black, "c.jpg": scene(0), "d.jpg": black, "e.jpg": scene(0)}
    names = {name: str(tmp_path / name) for name in pictures}
    pairs = look(folder_of(tmp_path, pictures)).duplicates()
    assert pairs == [(names["a.jpg"], names["c.jpg"]), (names["a.jpg"], names["e.jpg"])]


@pytest.mark.shared
def test_fingerprints_tell_real_photographs_apart(shared: Path) -> None:
    files = sorted((shared / "data" / "coco-mini" / "train2017").glob("*.jpg"))
    photographs = [decode_image(file.read_bytes()) for file in files]
    assert len(photographs) > 20
    prints = np.array([fingerprint(photograph)[0] for photograph in photographs])
    bits = np.bitwise_count(prints[:, None] ^ prints[None]).sum(-1)
    np.fill_diagonal(bits, 999)
    assert bits.min() > 3 * MAX_DUPLICATE_BITS
    again = []
    for photograph, known in zip(photographs, prints, strict=True):
        half = cv2.resize(photograph[..., ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        saved = decode_image(cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
        again.append(np.bitwise_count(fingerprint(saved)[0] ^ known).sum())
    assert np.mean(np.array(again) < MAX_DUPLICATE_BITS) > 0.97


@pytest.mark.ray
@pytest.mark.parametrize("tasks", [0, 1])
def test_tasks_on_ray_find_the_same_in_the_same_order(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    pictures: dict[str, np.ndarray | bytes] = {f"{i}.jpg": scene(i, 80 + i) for i in range(9)}
    images = folder_of(tmp_path, {**pictures, "x.jpg": b"no picture", "y.jpg": scene(3)})
    monkeypatch.setattr("mipnet.data.image_inspection.IMAGES_PER_TASK", 2)
    done: list[int] = []
    expected = read_columns(images)
    found = read_columns_on_ray(images, done.append, tasks)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)
    assert done[-1] == 11
    assert done == sorted(done)
