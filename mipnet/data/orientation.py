"""Which frame a picture's labels are in, if its EXIF orientation shows it otherwise than it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from mipnet.data.image_headers import (
    SIDEWAYS,
    ImageHeader,
    Read,
    header_of,
    is_deep,
    is_heic,
    read_head,
)
from mipnet.data.validation import Findings, bad_share_hint
from mipnet.errors import DataError, first_few

Exif = Literal["auto", "displayed", "stored"]
DISPLAYED, STORED, UNDECIDED = 0, 1, 2
"""Frames of labels: as people see the picture; as its pixels are stored; nobody knows."""
LOOKED_AT = 1000
"""So many pictures of a file, evenly spread, are looked at before they are decoded."""
AGREEMENT = 0.9
"""Share of a file's pictures with labels in one frame above which the others' are taken to be in it, too."""
READERS = 8
RESIZED = "picture of another size than is stated, with labels that may be of another scale"
RESIZED_HINT = (
    "give the pictures that were labelled; where the labels fit these, correct width and height, or leave "
    "both out"
)
EXIF_HINT = "say which frame the labels are in with --data.exif displayed (as people see it) or stored"


KINDS = {
    DISPLAYED: "picture with an EXIF orientation, turned as people see it",
    STORED: "picture with an EXIF orientation, used as it is stored",
    UNDECIDED: "picture with an EXIF orientation that its labels may follow or not, left out",
}
GUESSED = "; its size does not tell that, the other pictures do or --data.exif"


class Frame(NamedTuple):
    """What is known of the frame that a picture's labels are in.

    Attributes:
        width, height: in px as they are stated for the labels; 0 where nobody states them.
        otherwise: the frame where these decide nothing.
    """

    width: float = 0
    height: float = 0
    otherwise: float = DISPLAYED

    def of(self, header: ImageHeader) -> int:
        """DISPLAYED, STORED or UNDECIDED; the stated size decides where a picture is turned sideways."""
        if header.orientation == 1 or not self.width or not _sideways(header):
            return int(self.otherwise)
        if (self.width, self.height) == header.stored:
            return STORED
        return DISPLAYED if (self.width, self.height) == header.displayed else UNDECIDED


AS_DISPLAYED = Frame()


def to_frame(pixels: np.ndarray, orientation: int, displayed: bool, frame: Frame) -> np.ndarray | None:
    """Decoded pixels in the frame of the labels; None if that is undecided.

    Args:
        pixels: (H, W, C).
        orientation: EXIF's, of their file.
        displayed: they are turned already, as OpenCV turns those of TIFF and of no other format.
        frame: see ``Frame``.
    """
    height, width = pixels.shape[:2]
    if displayed and orientation in SIDEWAYS:
        height, width = width, height
    wanted = frame.of(ImageHeader(width, height, orientation))
    if wanted == UNDECIDED:
        return None
    if displayed:
        return _turn(pixels, {6: 8, 8: 6}.get(orientation, orientation)) if wanted == STORED else pixels
    return _turn(pixels, orientation) if wanted == DISPLAYED else pixels


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are displayed."""
    if orientation in SIDEWAYS:
        pixels = cv2.transpose(pixels)
    if orientation in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    if orientation in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    return pixels


def _sideways(header: ImageHeader) -> bool:
    return header.stored != header.displayed


@dataclass(frozen=True)
class Orientations:
    """The frames of a file's labels.

    Attributes:
        frames: (I, 3) float64, a ``Frame`` of each image.
        looked_at: how many pictures were looked at.
        undecided: names of those that are left out.
        resized: pictures that are of another size than is stated, in any frame: their names with both sizes.
    """

    frames: np.ndarray
    looked_at: int
    undecided: list[str]
    resized: list[str]

    def check(self, limit: float) -> None:
        """Check that the labels of most pictures can be placed.

        Raises:
            DataError: more than ``limit`` of those that were looked at are undecided, or of another size.
        """
        if len(self.resized) > limit * self.looked_at:
            raise DataError(
                f"{len(self.resized)} of {self.looked_at} images are of another size than the annotations "
                f"state ({first_few(self.resized)})",
                bad_share_hint(len(self.resized), self.looked_at, RESIZED_HINT),
            )
        if len(self.undecided) > limit * self.looked_at:
            raise DataError(
                f"the labels of {len(self.undecided)} of {self.looked_at} images do not tell whether they "
                f"follow the EXIF orientation ({first_few(self.undecided)})",
                bad_share_hint(len(self.undecided), self.looked_at, EXIF_HINT),
            )


def label_frames(
    images: Sequence[dict[str, Any]],
    reader: Callable[[str], Read],
    exif: Exif,
    found: Findings,
    fits: Mapping[int, bool] = MappingProxyType({}),
) -> Orientations:
    """The frame that the labels of each image are in.

    A stated size is that of the labels' frame, unless labelled keypoints show for the file's other pictures
    that it is not. Where it decides nothing (a picture that is square, mirrored
    or upside down), a file's other pictures do, if at least 90 % of them agree; without such, labels are
    as people see the picture, because tools show it so.

    Args:
        images: a file's entries, with file_name, width and height. With ``exif`` given, a size that is of
            the other frame is exchanged, in place.
        reader: file name -> what reads the file.
        exif: ``data.exif``.
        found: gets what is turned, left as stored, and left out.
        fits: of ``resolve_sizes``.
    """
    step = 1 if exif != "auto" or not all(fits.values()) else max(1, -(-len(images) // LOOKED_AT))
    chosen = images[::step]
    with ThreadPoolExecutor(READERS) as threads:
        heads = threads.map(lambda image: _look(reader(image["file_name"])), chosen)
        looks = list(zip(chosen, heads, strict=True))
    turned = [(image, look.header) for image, look in looks if look.header and look.turned]
    if exif == "auto":
        _follow_keypoints(turned, fits)
    stated = [_by_size(image, header) for image, header in turned]
    votes = [stated.count(frame) for frame in (DISPLAYED, STORED)]
    winner = int(np.argmax(votes))
    otherwise = winner if votes[winner] >= AGREEMENT * sum(votes) else UNDECIDED
    frames = np.zeros((len(images), 3))
    if exif == "auto":
        stated_sizes = [(image["width"], image["height"], otherwise) for image in images]
        frames = np.array(stated_sizes, np.float64).reshape(-1, 3)
    else:
        frames[:, 2] = STORED if exif == "stored" else DISPLAYED
        for image, header in turned:
            if (image["height"], image["width"]) == getattr(header, exif):
                _exchange(image)
    undecided: list[str] = []
    rows = frames[::step][[look.turned for _, look in looks]].tolist()
    for (image, header), own, row in zip(turned, stated, rows, strict=True):
        frame = Frame(*row).of(header)
        guessed = exif == "auto" and own == UNDECIDED != frame
        found.add(KINDS[frame] + (GUESSED if guessed else ""), image["file_name"])
        if frame == UNDECIDED:
            undecided.append(image["file_name"])
    for image, look in looks:
        if look.oddity:
            found.add(look.oddity, image["file_name"])
    left_out = set(undecided)
    sizes = [_two_sizes(image, look.header) for image, look in looks if image["file_name"] not in left_out]
    return Orientations(frames, len(chosen), undecided, [text for text in sizes if text])


def _two_sizes(image: Mapping[str, Any], header: ImageHeader | None) -> str:
    """Both sizes of a picture that is of another size than is stated, turned or not; "" if it is of that."""
    stated = image["width"], image["height"]
    if header is None or not stated[0] or stated in (header.stored, header.stored[::-1]):
        return ""
    width, height = header.displayed
    return f"{image['file_name']}: {width}x{height}, not {stated[0]:g}x{stated[1]:g}"


def _follow_keypoints(turned: Sequence[tuple[dict[str, Any], ImageHeader]], fits: Mapping[int, bool]) -> None:
    """Exchange the sizes of pictures whose keypoints fit either frame, where those of others contradict."""
    against = [_by_size(image, header) for image, header in turned if fits.get(image["id"]) is False]
    frame = max((DISPLAYED, STORED), key=against.count)  # of the labels, where sizes are the other's
    others = [image for image, header in turned if _by_size(image, header) == 1 - frame]
    confirmed = sum(image["id"] in fits for image in others)
    if against and len(against) >= AGREEMENT * (len(against) + confirmed):
        for image in others:
            if image["id"] not in fits:
                _exchange(image)


def _by_size(image: Mapping[str, Any], header: ImageHeader) -> int:
    return Frame(image["width"], image["height"], UNDECIDED).of(header)


def _exchange(image: dict[str, Any]) -> None:
    image["width"], image["height"] = image["height"], image["width"]


class _Look(NamedTuple):
    """The header of a picture, if it can be read; and what else is to be said of its format."""

    header: ImageHeader | None = None
    oddity: str = ""

    @property
    def turned(self) -> bool:
        """Whether the picture is displayed otherwise than it is stored."""
        return self.header is not None and self.header.orientation != 1


def _look(read: Read) -> _Look:
    try:
        head = read_head(read)
        header = header_of(read, head)
    except OSError:
        return _Look()  # a missing picture, which the check of the files says
    if is_heic(head):
        return _Look(None, "HEIC picture, which cannot be decoded; convert it to JPEG or PNG")
    deep = "picture of 16 bits a channel, scaled by the bits that it uses"
    return _Look(header, deep if is_deep(head) else "")
