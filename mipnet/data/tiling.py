"""Cutting tiles: the part of its image that a person's crops can show under every augmentation.

A tile is clipped to the image, and otherwise reaches as far as the largest scale, every rotation and shift,
and both half bodies take a crop. It is not scaled down: for 256x192 one of 86 people of COCO is large enough
for that, and crops from halves of such tiles are 2.5 grey levels off (3.9 for 96x64), because bilinear crops
of the image do not average. It begins at a multiple of 16 px, where a JPEG's blocks begin, so that the
image's own rounding is repeated instead of added to.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mipnet.data.crops import Augmentation, CropSettings, cut_crop, decode_image, half_body_crop
from mipnet.data.geometry import box_to_crop
from mipnet.data.pack import PackedImage, Row
from mipnet.data.records import People, read_uri
from mipnet.data.tiles import load_tiles, tile_name
from mipnet.data.windows import sample_rng
from mipnet.storage import Folder

QUALITY = 95
"""With all chroma. On photographs of COCO crops are 0.6 grey levels off; 90 has 1.4, half the chroma 1.7."""
GRID = 16  # px of a JPEG's largest block
MARGIN = 2  # px: bilinear interpolation reads the next pixel, and coordinates are rounded
WRONG = 8.0  # mean difference in grey levels from which a tile is not of its image any more


def tile_box(
    box: np.ndarray, keypoints: np.ndarray, settings: CropSettings, image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The part of an image that crops of a person can show.

    Args:
        box: (4,) x, y, w, h in px.
        keypoints: (K, 3) x, y in px and v.
        settings: how crops are cut, and how far augmentation goes.
        image_size: (width, height) in px.

    Returns:
        left, top, right, bottom in px, at least one pixel of the image.
    """
    low, high = reach(box, keypoints, settings)
    limit = np.array(image_size)
    first = np.clip(np.floor(low) - MARGIN, 0, limit - 1).astype(int) // GRID * GRID
    last = np.clip(np.ceil(high) + MARGIN + 1, first + 1, limit).astype(int)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def reach(box: np.ndarray, keypoints: np.ndarray, settings: CropSettings) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest x, y (2,) in px of all crops of a person; mirroring changes nothing."""
    a = settings.augment
    crops = [box_to_crop(box, settings.size, settings.padding)]
    if a.half_body > 0:
        crops += [half_body_crop(keypoints, half, settings, *crops[0]) for half in HALVES]
    angle = 2 * a.rotation if a.rotation_probability > 0 else 0.0
    lows, highs = [], []
    for center, size in crops:
        around = 2 * a.shift * size + (1 + a.scale) * turned_half(size, angle)
        lows.append(center - around)
        highs.append(center + around)
    return np.min(lows, axis=0), np.max(highs, axis=0)


HALVES = [Augmentation(False, 1.0, 0.0, np.zeros(2), True, upper, None, 0.0) for upper in (True, False)]


def turned_half(size: np.ndarray, angle: float) -> np.ndarray:
    """Half the sides (2,) of the box around a rectangle of ``size`` (w, h) in all turns within ± angle."""
    half = np.asarray(size, np.float64) / 2
    turns = np.minimum(np.deg2rad(angle), np.arctan2(half[::-1], half))  # widest where the diagonal lies flat
    return half * np.cos(turns) + half[::-1] * np.sin(turns)


@dataclass(frozen=True)
class Tiling:
    """How the people of one annotation file become tiles: what ``Packing`` asks for.

    Attributes:
        people: of the file, with their images as they are.
        settings: of the training crops.
    """

    people: People
    settings: CropSettings

    def cut(self, image: PackedImage, content: bytes) -> list[Row] | None:
        """The tiles of an image; None if it cannot be decoded."""
        pixels = decode_image(content)
        if pixels is None:
            return None
        annotations = {person["id"]: person for person in json.loads(image.people)}
        owner = int(np.searchsorted(self.people.images.ids, image.image_id))
        rows = []
        for person in range(*self.people.first[owner : owner + 2].tolist()):
            person_id = int(self.people.ids[person])
            left, top, right, bottom = self.box(person, pixels)
            rows.append(
                Row(
                    tile_name(person_id),
                    image.image_id,
                    json.dumps([annotations[person_id]]),
                    encode(pixels[top:bottom, left:right]),
                    (left, top, right - left, bottom - top, pixels.shape[1]),
                )
            )
        return rows

    def differs(self, source: Folder, name: str, content: bytes) -> bool:
        """Whether a tile shows something else than its place in the image."""
        person = int(np.flatnonzero(self.people.ids == int(name.partition(".")[0]))[0])
        pixels = _decoded(str(self.people.images.uris[self.people.image_of(person)]))
        tile = decode_image(content)
        if pixels is None or tile is None:
            return True
        left, top, right, bottom = self.box(person, pixels)
        part = pixels[top:bottom, left:right]
        return tile.shape != part.shape or float(cv2.absdiff(tile, part).mean()) > WRONG

    def error(self, target: Folder) -> TileError:
        """How crops from the tiles in ``target`` differ from those of the images."""
        return tile_error(self.packed(target), self.settings)

    def packed(self, target: Folder) -> People:
        """The people with their tiles, which are in ``target``."""
        image_uris = np.repeat(self.people.images.uris, self.people.per_image)
        return replace(self.people, tiles=load_tiles(target, self.people.ids, image_uris))

    def box(self, person: int, pixels: np.ndarray) -> tuple[int, int, int, int]:
        """The tile of a person in the pixels of the image."""
        size = pixels.shape[1], pixels.shape[0]
        return tile_box(self.people.boxes[person], self.people.keypoints[person], self.settings, size)


@functools.lru_cache(maxsize=1)
def _decoded(uri: str) -> np.ndarray | None:
    """The image of the last person, who is seldom alone in it."""
    return decode_image(read_uri(uri))


def encode(pixels: np.ndarray) -> bytes:
    """A tile's file from (h, w, 3) uint8 RGB."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


@dataclass(frozen=True)
class TileError:
    """How training crops from tiles differ from those of the images.

    Attributes:
        crops: how many were compared.
        mean, largest: difference in grey levels, over all values.
        above: share of the values that differ by more than so many levels.
    """

    crops: int
    mean: float
    largest: int
    above: dict[int, float]

    def line(self) -> str:
        shares = ", ".join(
            f"{100 * share:.3g} % by more than {levels}" for levels, share in self.above.items()
        )
        return (
            f"{self.crops} training crops from tiles and from images: {self.mean:.2f} grey levels apart in "
            f"the mean, {self.largest} at most; of the values differ {shares}"
        )


def tile_error(people: People, settings: CropSettings, crops: int = 64) -> TileError:
    """Cut crops of people, evenly spread, from their tiles and from the images, augmented but for colours.

    Args:
        people: with tiles, and images that can be read.
        settings: how crops are cut.
        crops: so many, if there are.
    """
    settings = replace(settings, augment=replace(settings.augment, colour=0.0))
    plain = replace(people, tiles=None)
    apart = np.zeros(256, np.int64)
    chosen = np.unique(np.linspace(0, len(people) - 1, min(crops, len(people))).round().astype(int))
    compared = 0
    for person in chosen.tolist():
        both = [_crop(of, person, settings) for of in (people, plain)]
        if both[0] is not None and both[1] is not None:
            apart += np.bincount(cv2.absdiff(both[0], both[1]).ravel(), minlength=256)
            compared += 1
    total, levels = max(int(apart.sum()), 1), np.arange(256)
    return TileError(
        compared,
        float((apart * levels).sum() / total),
        int(levels[apart > 0].max(initial=0)),
        {limit: float(apart[limit + 1 :].sum() / total) for limit in (1, 8)},
    )


def _crop(people: People, person: int, settings: CropSettings) -> np.ndarray | None:
    """A person's crop, (h, w, 3) uint8 RGB; None if it cannot be read."""
    group = int(np.searchsorted(people.groups, person, side="right")) - 1
    try:
        pixels = decode_image(people.pictures.read(group))
    except OSError:
        return None
    if pixels is None:
        return None
    out = np.empty((settings.size[1], settings.size[0], 3), np.uint8)
    near = people.neighbours(person)
    boxes, keypoints = people.boxes[near], people.keypoints[near]
    rng = sample_rng(0, 0, person)
    cut_crop(pixels, boxes, keypoints, person - near.start, settings, rng, out, people.part(group))
    return out
