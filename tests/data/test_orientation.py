"""Pictures with an EXIF orientation: pixels come in the frame that their labels are in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mipnet.config import Config
from mipnet.config.schema import AugmentConfig, DataConfig
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.crops import CropSettings, decode_image, labelled_image
from mipnet.data.dataset_formats import load_boxes, open_split
from mipnet.data.image_headers import orientation_of
from mipnet.data.orientation import DISPLAYED, STORED, UNDECIDED, Frame
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.shards import pack
from mipnet.data.stream import CropLoader
from mipnet.errors import DataError
from mipnet.experiment.packing import plan_packings
from mipnet.inference.pipeline import load_crops
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from tests.helpers.turning import encoded, stored

Content = dict[str, Any]
Make = Callable[..., CocoKeypointFile]
Crops = dict[str, np.ndarray]
UPRIGHT = np.random.default_rng(2).integers(0, 256, (7, 11, 3), np.uint8)
FILE = "annotations/person_keypoints_train.json"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_in_either_frame(kind: str, orientation: int) -> None:
    smooth = cv2.resize(UPRIGHT[:2, :3], (48, 36)) // 2 + 60
    pixels = smooth if kind in ("JPEG", "AVIF") else UPRIGHT
    content = encoded(pixels, orientation, kind)
    assert orientation_of(content) == orientation
    for frame, wanted in ((DISPLAYED, pixels), (STORED, stored(pixels, orientation))):
        found = decode_image(content, Frame(otherwise=frame))
        assert found is not None
        assert found.shape == wanted.shape
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found.astype(int), wanted, atol=0 if pixels is UPRIGHT else 12)
    undecided = decode_image(content, Frame(otherwise=UNDECIDED))
    assert (undecided is None) == (orientation > 1)


def test_without_a_tag_pixels_are_opencvs_and_damage_is_no_orientation() -> None:
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".gif"):
        content = cv2.imencode(suffix, UPRIGHT)[1].tobytes()
        wanted = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(decode_image(content), wanted)
    for kind in ("PNG", "TIFF", "WEBP", "JPEG"):
        content = encoded(UPRIGHT, 6, kind)
        for end in range(0, len(content), 7):
            assert orientation_of(content[:end]) in (1, 6)
    assert orientation_of(encoded(UPRIGHT, 6).replace(b"\x00\x06\x00\x00", b"\x00\x2a\x00\x00")) == 1


def test_a_thumbnail_or_a_comment_before_the_tag_changes_nothing() -> None:
    content = encoded(UPRIGHT, 8, "JPEG")
    comment = b"\xff\xfe\xff\xf0" + b"Exif\0\0MM" * 8190 + b"??????"
    assert orientation_of(content[:2] + comment[: 2 + 0xFFF0] + content[2:]) == 8


@pytest.mark.parametrize("bits", [9, 12, 15, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jp2", ".pnm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_by_those_in_use(bits: int, suffix: str, channels: int) -> None:
    colours = np.array([[[1, 0, 0], [0, 1, 0], [0.25, 0.5, 1]]])[..., :channels]
    colours = np.kron(colours, np.ones((64, 64, 1)))  # JPEG 2000 needs so many
    deep = (colours * (2**bits - 1)).astype(np.uint16)
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if suffix == ".jp2" else []
    content = cv2.imencode(suffix, deep[..., ::-1], lossless)[1].tobytes()
    found = decode_image(content)
    assert found is not None
    np.testing.assert_allclose(found, np.broadcast_to(colours * 255, (64, 192, 3)), atol=1)
    if bits == 16:
        plain = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("white", [15, 255, 300, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_a_pnm_is_scaled_by_its_value_of_white(kind: str, white: int) -> None:
    colours = np.array([[[1, 0, 0.4], [0, 1, 0.2], [0.2, 0.6, 1]]])
    colours = colours[..., :1] if kind in ("P2", "P5") else colours
    dim = np.rint(colours * white).astype(int)
    head = f"{kind} # a comment, 7\n 3\t1\n#another\n{white}\n".encode()
    plain = " ".join(map(str, dim.ravel().tolist())).encode() + b"\n"
    stored = plain if kind in ("P2", "P3") else dim.astype(np.uint8 if white < 256 else ">u2").tobytes()
    found = decode_image(head + stored)
    assert found is not None
    np.testing.assert_allclose(found, np.broadcast_to(colours * 255, (1, 3, 3)), atol=1)
    dark = decode_image(head.replace(b"4095", b"65534") + stored)  # no matter which bits are in use
    assert white != 4095 or (dark is not None and dark.max() == 16)


def test_12_bits_of_jpeg_2000_are_scaled_by_its_header() -> None:
    dim = np.kron(np.array([[300, 0], [100, 200]]), np.ones((64, 64), int))  # dark, of 4095
    stored = (np.dstack([dim] * 3) + (1 << 15) - (1 << 11)).astype(np.uint16)
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    content = bytearray(cv2.imencode(".jp2", stored, lossless)[1].tobytes())
    start = content.find(b"\xff\x4f\xff\x51")  # of the codestream
    for place in (content.find(b"ihdr") + 14, start + 42, start + 45, start + 48):
        assert content[place] == 15
        content[place] = 11  # 12 bits, written as one less
    found = decode_image(bytes(content))
    assert found is not None
    np.testing.assert_allclose(found[..., 0], dim / 16, atol=1)


@pytest.fixture(scope="module")
def make(small_coco: Folder, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A copy of the small data set whose pictures are lossless: ``make(orientation of number i)``."""
    content: Content = json.loads(small_coco.read(FILE))
    pictures = [decode_image(small_coco.read(f"train/{i}.jpg")) for i in range(12)]

    def write(
        orientation: Callable[[int], int] = lambda i: 1,
        change: Callable[[Content], None] = lambda content: None,
        *,
        shown: bool = True,
        **data: Any,
    ) -> CocoKeypointFile:
        """``shown``: these pixels are what people see; else they are what is stored."""
        root = tmp_path_factory.mktemp("turned")
        (root / "train").mkdir()
        made = json.loads(json.dumps(content))
        for image in made["images"]:
            image["file_name"] = f"{image['id']}.png"
            pixels, turn = pictures[image["id"]], orientation(image["id"])
            assert pixels is not None
            if not shown:  # then people see what these pixels are turned to
                inverse = {6: 8, 8: 6}.get(turn, turn)
                pixels = stored(pixels, inverse)
            (root / "train" / image["file_name"]).write_bytes(encoded(pixels, turn))
        change(made)
        Folder.of(root).write(FILE, json.dumps(made))
        return open_split(DataConfig(root=str(root), **data), Folder.of(root), "train")

    return write


@pytest.fixture(scope="module")
def upright(make: Make) -> Crops:
    return crops(make())


def crops(file: CocoKeypointFile) -> Crops:
    """Training's crops of an epoch, and the crops that poses are predicted in."""
    people, augment = file.people(), replace(AugmentConfig(), colour=0.1)
    schedule = SampleSchedule(people.image_offsets, seed=3, epochs=1, batch_size=8, window_batches=2)
    loader = CropLoader(people, schedule, CropSettings((48, 64), 1.25, 2, COCO17, augment))
    windows = [loader.load(window) for window in range(schedule.num_windows)]
    boxes = file.ground_truth_boxes()
    predicted = load_crops(np.arange(12), boxes, (48, 64), 1.25, np.arange(12))
    whole = {key: np.concatenate([window[key] for window in windows]) for key in windows[0]}
    return {**whole, **{f"predicted {key}": value for key, value in predicted.items()}}


def assert_same(file: CocoKeypointFile, wanted: Crops) -> None:
    assert not wanted["corrupt"].any()
    for key, found in crops(file).items():
        np.testing.assert_array_equal(found, wanted[key], err_msg=key)


def notes(file: CocoKeypointFile, about: str = "EXIF") -> list[str]:
    return [note for note in file.fixes if about in note]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_as_people_see_the_picture(make: Make, upright: Crops, orientation: int) -> None:
    turned = make(lambda i: orientation)
    assert_same(turned, upright)
    (note,) = notes(turned)
    assert "12 x picture with an EXIF orientation, turned as people see it" in note
    assert ("--data.exif" in note) == (orientation < 5)
    assert turned.orientations.undecided == []


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_in_the_stored_frame_are_told_by_the_size(
    make: Make, upright: Crops, orientation: int
) -> None:
    kept = make(lambda i: orientation, shown=False)
    assert_same(kept, upright)
    (note,) = notes(kept)
    assert "12 x picture with an EXIF orientation, used as it is stored" in note


def test_the_pictures_that_can_be_decided_decide_the_others(make: Make, upright: Crops) -> None:
    """3 turns nothing sideways: what the labels of pictures with 6 follow, those of 3 do, too."""
    assert_same(make(lambda i: 6 if i % 2 else 3, shown=False), upright)
    assert_same(make(lambda i: (1, 2, 3, 4, 5, 6, 7, 8)[i % 8]), upright)


def test_where_labels_follow_it_and_do_not_the_rest_is_left_out(make: Make, upright: Crops) -> None:
    """0 to 3 as seen, 4 to 7 as stored, 8 to 10 upside down."""

    def change(content: Content) -> None:
        for image in content["images"][4:8]:
            image["width"], image["height"] = 100, 120

    file = make(lambda i: 6 if i < 8 else 3 if i < 11 else 1, change)
    assert file.orientations.undecided == ["8.png", "9.png", "10.png"]
    assert "3 x picture with an EXIF orientation that its labels may follow or not" in "".join(notes(file))
    file.orientations.check(0.25)
    with pytest.raises(
        DataError, match=r"3 of 12 images do not .*8\.png.*--data\.exif displayed .* or stored"
    ):
        file.orientations.check(0.2)
    images = file.images()
    assert [labelled_image(images, i) is None for i in range(12)] == [False] * 8 + [True] * 3 + [False]
    # The flag decides.
    shown = make(lambda i: 6 if i < 8 else 3 if i < 11 else 1, change, exif="displayed")
    assert_same(shown, upright)
    assert shown.orientations.undecided == []


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("exif", ["displayed", "stored"])
def test_the_flag_decides_over_sizes(make: Make, upright: Crops, orientation: int, exif: str) -> None:
    def neither(content: Content) -> None:
        for image in content["images"]:
            image["width"], image["height"] = 333, 222

    file = make(lambda i: orientation, neither, exif=exif, shown=exif == "displayed")
    assert_same(file, upright)
    if orientation == 6:
        assert len(make(lambda i: orientation, neither).orientations.undecided) == 12


def swapped(content: Content) -> None:
    """Sizes as they are stored, and joints that only lie in the picture as people see it."""
    for image in content["images"]:
        image["width"], image["height"] = 100, 120
    for person in content["annotations"]:
        person["keypoints"][:3] = [118, 50, 2]


def test_joints_beyond_the_stated_size_show_that_it_is_the_stored_one(make: Make) -> None:
    file = make(lambda i: 6, swapped)
    assert_same(file, crops(make(change=swapped)))
    assert "12 x picture with an EXIF orientation, turned" in "".join(notes(file))


@pytest.mark.parametrize("exif_frame", ["displayed", "stored"])
def test_keypoints_of_some_pictures_show_what_the_sizes_of_all_are_worth(make: Make, exif_frame: str) -> None:
    """All sizes are of the other frame than the labels, which most pictures' labels do not contradict."""

    def change(content: Content, swap: bool = True) -> None:
        for image in content["images"]:
            if swap:
                image["width"], image["height"] = 100, 120
        for person in content["annotations"]:
            x = person["keypoints"][0::3]
            person["keypoints"][0::3] = [118, *x[1:]] if person["image_id"] == 7 else [min(v, 99) for v in x]

    file = make(lambda i: 6, change, shown=exif_frame == "displayed")
    assert_same(file, crops(make(change=lambda content: change(content, swap=False))))
    assert {(image["width"], image["height"]) for image in file.annotations["images"]} == {(120, 100)}


def test_one_bad_box_does_not_turn_the_stored_frame(make: Make) -> None:
    """Labels in the stored frame, 120 wide; all joints inside, one box up to y = 119."""

    def change(content: Content) -> None:
        for person in content["annotations"]:
            person["keypoints"][1::3] = [min(y, 99) for y in person["keypoints"][1::3]]
        content["annotations"][0]["bbox"] = [5, 5, 50, 114]

    file = make(lambda i: 8, change, shown=False)
    assert not notes(file, "swapped")
    assert_same(file, crops(make(change=change)))


def test_no_stated_size_is_the_displayed_one(make: Make, upright: Crops) -> None:
    def change(content: Content) -> None:
        for image in content["images"]:
            del image["width"], image["height"]

    file = make(lambda i: 6, change)
    assert_same(file, upright)
    assert {(image["width"], image["height"]) for image in file.annotations["images"]} == {(120, 100)}


def test_packed_pictures_are_the_same(
    make: Make, upright: Crops, small_config: Config, tmp_path: Path
) -> None:
    file = make(lambda i: 1 + i % 8)
    root, out = Folder.of(file.images_uri.removesuffix("/train")), Folder.of(tmp_path / "packed")
    config = replace(small_config, data=replace(small_config.data, root=root.uri))
    for packing in plan_packings(config, root, out, splits=["train"], shard_images=5):
        pack(packing)
    packed = open_split(config.data, out, "train")
    assert "#" in str(packed.images().uris[0])
    assert [note.partition(": ")[2] for note in packed.fixes] == [n.partition(": ")[2] for n in file.fixes]
    assert_same(packed, upright)
    boxes = load_boxes(packed, out, "train", "gt", config)
    assert labelled_image(boxes.images, 5) is not None


def test_a_long_header_and_many_pictures_are_read_alike(tmp_path: Path) -> None:
    """64 KiB of another segment before the size: more than is read at first."""
    (tmp_path / "train").mkdir()
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    picture.save(file, "JPEG", exif=exif.tobytes(), comment=b"x" * 65000, icc_profile=b"y" * 3000)
    (tmp_path / "train/0.jpg").write_bytes(file.getvalue())
    joints = [20, 30, 2] * 17
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 50], "keypoints": joints}
    content = {
        "images": [{"id": 1, "file_name": "0.jpg", "width": 40, "height": 60}],
        "annotations": [{**person, "iscrowd": 0, "area": 700, "num_keypoints": 17}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
    }
    Folder.of(tmp_path).write(FILE, json.dumps(content))
    found = open_split(DataConfig(), Folder.of(tmp_path), "train")
    assert "1 x picture with an EXIF orientation, turned" in "".join(notes(found))
    image = labelled_image(found.people().images, 0)
    assert image is not None
    assert image.shape == (60, 40, 3)


def test_what_is_said_of_formats(make: Make) -> None:
    """16 bits, and an iPhone's HEIC under another name."""
    file = make()
    root = Path(file.images_uri)
    cv2.imwrite(str(root / "3.png"), np.full((100, 120, 3), 4000, np.uint16))
    (root / "4.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    again = open_split(DataConfig(), Folder.of(root.parent), "train")
    assert [note.partition(": ")[2] for note in again.fixes] == [
        "1 x picture of 16 bits a channel, scaled by the bits that it uses: 3.png",
        "1 x HEIC picture, which cannot be decoded; convert it to JPEG or PNG: 4.png",
    ]
    scan, phone = (labelled_image(again.images(), i) for i in (3, 4))
    assert scan is not None
    assert scan.max() == 250
    assert phone is None


def resize_labels(content: Content, factor: float, numbers: range, boxes_too: bool = True) -> None:
    """Labels, and what the images are said to measure, of another scale than the pictures."""
    for image in content["images"]:
        if image["id"] in numbers:
            image["width"], image["height"] = factor * image["width"], factor * image["height"]
    for person in content["annotations"] if boxes_too else ():
        if person["image_id"] in numbers:
            person["bbox"] = [factor * value for value in person["bbox"]]
            scaled = np.reshape(person["keypoints"], (-1, 3)) * (factor, factor, 1)
            person["keypoints"] = scaled.ravel().tolist()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_pictures_of_another_size_than_their_labels_are_refused_or_said(make: Make, factor: float) -> None:
    file = make(change=lambda content: resize_labels(content, factor, range(12)))
    size = f"{120 * factor:g}x{100 * factor:g}"
    words = rf"^12 of 12 images are of another size than the annotations state \(0.png: 120x100, not {size}"
    with pytest.raises(DataError, match=words):
        file.orientations.check(0.01)
    file = make(change=lambda content: resize_labels(content, factor, range(1)))
    file.orientations.check(0.1)
    (line,) = file.oddities.lines()
    assert line.startswith("1 x picture of another size than is stated")
    assert line.endswith(f"0.png: 120x100, not {size}")


def test_a_size_that_is_a_templates_is_none_of_its_images(make: Make) -> None:
    """Some boxes lie outside of it, the others inside by chance."""
    file = make(change=lambda content: resize_labels(content, 0.75, range(12), boxes_too=False))
    file.orientations.check(0)
    assert notes(file, "12 x image that is not of the stated width and height, which are the picture's now")
