"""Tiles: for each person the part of its image that training can read, as a JPEG of its own.

They lie packed (``mipnet.data.pack``) beside the images of a split. Training then decodes one tile for each
sample, in an order that needs not keep the people of an image together. How they are cut is in
``mipnet.data.tiling``; people and joints, and so what is random about a sample, stay those of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.data.crops import CropSettings, Part
from mipnet.data.pack import piece_names, read_index, read_manifest
from mipnet.errors import DataError
from mipnet.storage import Folder, file_name, parent_of

PLACE = ("left", "top", "width", "height", "image_width")
"""Where a tile lies: its first pixel in the image, its size, and the width of the whole image, in px."""
TILES = "tiles"
"""Under this key the manifest tells of ``limits``."""


@dataclass(frozen=True)
class Tiles:
    """The tiles of P people.

    Attributes:
        uris: (P,) where each is; of the image where a person has none, because that could not be read.
        places: (P, 5) int64, the numbers of ``PLACE``; 0 without a tile.
        limits: what they were cut for, see ``limits``.
        where: the folder's URI.
    """

    uris: np.ndarray
    places: np.ndarray
    limits: dict[str, Any]
    where: str

    def part(self, person: int) -> Part | None:
        """Which part of the image the tile is; None without a tile."""
        left, top, width, _, image_width = self.places[person].tolist()
        return Part(left, top, image_width) if width else None


def tiles_folder(images_uri: str, annotations_path: str) -> Folder:
    """Where the tiles of the people of an annotation file are: in the folder of the images."""
    _, name = parent_of(annotations_path)
    return Folder(images_uri).join(f"{TILES}-{file_name(name).removesuffix('.json')}")


def tile_name(person_id: int) -> str:
    """The tile's name in that folder, by the id of the annotation."""
    return f"{person_id}.jpg"


def load_tiles(folder: Folder, ids: np.ndarray, image_uris: np.ndarray) -> Tiles | None:
    """The tiles of people; None if there are none.

    Args:
        folder: see ``tiles_folder``.
        ids: (P,) annotation ids.
        image_uris: (P,) of the image of each.

    Raises:
        DataError: they were not packed to the end, or are broken.
    """
    index = read_index(folder)
    if not index:
        return None
    rows = {name: row for row, name in enumerate(index["name"])}
    pieces, numbers = piece_names(index), np.array([index[name] for name in PLACE], np.int64)
    uris, places = [], np.zeros((len(ids), len(PLACE)), np.int64)
    for person, (person_id, image_uri) in enumerate(zip(ids.tolist(), image_uris, strict=True)):
        row = rows.get(tile_name(person_id))
        uris.append(str(image_uri) if row is None else folder.path(pieces[row]))
        if row is not None:
            places[person] = numbers[:, row]
    return Tiles(np.array(uris), places, read_manifest(folder)["settings"][TILES], folder.uri)


def limits(settings: CropSettings) -> dict[str, Any]:
    """All that decides which part of the image a crop can show, by the names of the settings."""
    a = settings.augment
    return {
        "input.size": list(settings.size),
        "input.padding": settings.padding,
        "augment.scale": a.scale,
        "augment.rotation": a.rotation if a.rotation_probability > 0 else 0.0,
        "augment.shift": a.shift,
        "augment.half_body": a.half_body,
        "augment.half_body_min_joints": a.half_body_min_joints,
        "data.skeleton.upper_body": sorted(settings.skeleton.upper_body),
    }


def check_limits(tiles: Tiles, settings: CropSettings) -> None:
    """Make sure that no crop shows more than its tile.

    Raises:
        DataError: a setting reaches farther than what the tiles were cut for; the first such.
    """
    had, wanted = tiles.limits, limits(settings)
    for name in ("input.padding", "augment.scale", "augment.rotation", "augment.shift"):
        if wanted[name] > had[name]:
            raise _too_far(tiles, name, wanted[name])
    (w, h), (tiles_w, tiles_h) = wanted["input.size"], had["input.size"]
    if w * tiles_h != h * tiles_w:
        raise DataError(
            f"crops of {w}x{h} have another shape than those of {tiles_w}x{tiles_h} that the tiles in "
            f"{tiles.where} were cut for",
            f"pack again with --input.width {w} --input.height {h}, into another folder",
        )
    if wanted["augment.half_body"] > 0:
        if not had["augment.half_body"]:
            raise _too_far(tiles, "augment.half_body", wanted["augment.half_body"])
        if wanted["augment.half_body_min_joints"] < had["augment.half_body_min_joints"]:
            raise _too_far(tiles, "augment.half_body_min_joints", wanted["augment.half_body_min_joints"])
        if wanted["data.skeleton.upper_body"] != had["data.skeleton.upper_body"]:
            raise DataError(
                f"the tiles in {tiles.where} were cut for a skeleton with another upper_body",
                "pack again with this --data.skeleton, into another folder",
            )


def _too_far(tiles: Tiles, name: str, value: float) -> DataError:
    flag, had = f"--{name.replace('_', '-')}", tiles.limits[name]
    return DataError(
        f"{name} {value:g} reaches beyond the tiles in {tiles.where}, which were cut for {had:g}",
        f"set {flag} {had:g}, or pack again with {flag} {value:g}, into another folder",
    )
