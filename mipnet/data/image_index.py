"""Where the files of images are, and their bytes: paths, URIs, and rows of Parquet tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mipnet.data.orientation import AS_DISPLAYED, Frame
from mipnet.data.parquet import read_row
from mipnet.storage import split_uri, without_byte_range


@dataclass(frozen=True)
class ImageIndex:
    """Where the files of I images are.

    Attributes:
        uris: (I,) path or URI of each file.
        ids: (I,) int64, the annotation file's image ids.
        frames: (I, 3) float64, the ``Frame`` of each image's labels; None where they are as people see the
            pictures.
    """

    uris: np.ndarray
    ids: np.ndarray
    frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, rows: np.ndarray) -> ImageIndex:
        """Only some of the images: (I,) bool, or indices."""
        frames = None if self.frames is None else self.frames[rows]
        return ImageIndex(self.uris[rows], self.ids[rows], frames)

    def frame(self, index: int) -> Frame:
        """The frame that the labels of one image are in."""
        return AS_DISPLAYED if self.frames is None else Frame(*self.frames[index].tolist())

    @classmethod
    def concatenate(cls, parts: Sequence[ImageIndex]) -> ImageIndex:
        """The images of several lists, one after another."""
        frames = [np.zeros((len(p), 3)) if p.frames is None else p.frames for p in parts]
        return cls(
            np.concatenate([p.uris for p in parts]),
            np.concatenate([p.ids for p in parts]),
            np.concatenate(frames),
        )

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        return read_uri(str(self.uris[index]))


def read_uri(uri: str, limit: int | None = None) -> bytes:
    """The content of a file given by path or URI, or of one row of a Parquet table (``mipnet.data.parquet``).

    Args:
        uri: of the file or row.
        limit: read so many bytes from the beginning of a file at most.

    Raises:
        FileNotFoundError: no such file or row.
    """
    if "#row=" in uri and (content := read_row(uri)) is not None:
        return content
    folder, name = split_uri(uri)
    return folder.read(name, limit)


def missing_files(images: ImageIndex) -> list[str]:
    """The URIs of images whose file does not exist; one listing per folder instead of a request per file."""
    locations = [split_uri(str(uri)) for uri in images.uris]
    existing = {folder: set(folder.names()) for folder in dict.fromkeys(folder for folder, _ in locations)}
    return [
        str(uri)
        for uri, (folder, name) in zip(images.uris, locations, strict=True)
        if without_byte_range(name) not in existing[folder]
    ]
