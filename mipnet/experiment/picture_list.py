"""The pictures of ``mipnet predict``: their names and ids, as found or as a COCO file lists them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.data.annotation_reading import read_images
from mipnet.data.categories import Category, choose_category, joint_names, joint_order
from mipnet.data.coco import Boxes
from mipnet.data.detections import DetectionImages
from mipnet.data.image_headers import header_of
from mipnet.data.image_index import ImageIndex, read_uri
from mipnet.data.image_matching import ImageMatcher, number_in_name
from mipnet.data.json_files import read_json
from mipnet.data.json_values import IdMap, id_key, whole_number
from mipnet.data.validation import Findings
from mipnet.errors import DataError, first_few
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, split_uri

BOXES_TO_JUDGE = 32
"""So many boxes decide the format of all, because it takes the pictures' headers."""


@dataclass(frozen=True)
class Pictures:
    """The pictures (I) to predict.

    Attributes:
        uris: of each; one that is listed under several ids is there several times.
        names: of each in the output, relative to what was given.
        given_ids: id of each as people wrote it, if they gave ids.
    """

    uris: list[str]
    names: list[str]
    given_ids: list[Any] | None = None

    @functools.cached_property
    def _keys(self) -> list[Any]:
        """What stands for each picture: its given id, else its name's number, else its place as text."""
        if self.given_ids is not None:
            return self.given_ids
        numbers = [number_in_name(name) for name in self.names]
        count = Counter(numbers)
        return [n if n is not None and count[n] == 1 else f"place {i}" for i, n in enumerate(numbers)]

    @functools.cached_property
    def _id_map(self) -> IdMap:
        return IdMap(self._keys)

    @property
    def ids(self) -> list[int]:
        """Image id of each in tables, distinct: given, or its name as in COCO's 000000000139.jpg."""
        return [number for key in self._keys if (number := self._id_map.get(key)) is not None]

    @property
    def unnumbered(self) -> list[str]:
        """Names of the pictures whose ids say nothing."""
        pairs = zip(self.names, self._keys, strict=True)
        return [name for name, key in pairs if self.given_ids is None and isinstance(key, str)]

    def own_id(self, number: int) -> Any:
        """The id of ``ids`` as people wrote it."""
        return number if self.given_ids is None else self._id_map.own(number)

    @property
    def index(self) -> ImageIndex:
        return ImageIndex(np.array(self.uris), np.array(self.ids, np.int64))

    def whole(self) -> Boxes:
        """One box for each picture: nan, which the task that decodes it replaces by the whole picture."""
        n = len(self.uris)
        return Boxes(self.index, np.arange(n), np.full((n, 4), np.nan), np.ones(n), np.zeros(n, np.int64))

    def for_detections(self, category: Category) -> DetectionImages:
        """The pictures as detections are of them; those of other pictures are left out."""
        matcher = ImageMatcher(self.names, self.given_ids, self.uris)
        return DetectionImages(
            self.index,
            matcher,
            lambda given: id_key(given) in category.ids,
            category.entry["id"],
            self._sizes,
            judged=BOXES_TO_JUDGE,
        )

    def _sizes(self, index: np.ndarray) -> np.ndarray:
        """(n, 2) width and height of pictures (n,) as people see them; nan where they cannot be read."""
        sizes = {i: self._size(i) for i in np.unique(index).tolist()}
        return np.array([sizes[i] for i in index.tolist()], np.float64).reshape(-1, 2)

    def _size(self, index: int) -> tuple[float, float]:
        try:
            header = header_of(functools.partial(read_uri, self.uris[index]))
        except OSError:
            header = None  # a picture that cannot be read is counted where it is decoded
        return header.displayed if header else (np.nan, np.nan)


def read_list(source: str) -> dict[str, Any]:
    """The content of a COCO file that lists pictures.

    Raises:
        DataError: it is missing, not JSON, or without a list of images.
    """
    folder, name = split_uri(Folder.of(source).uri)
    content = read_json(folder, name, "check --images-json")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{source} has no list 'images'", "give a COCO file with --images-json")
    return content


def person_category(content: Mapping[str, Any], source: str, wanted: str, skeleton: Skeleton) -> Category:
    """The category of persons in detections and results.

    Args:
        content: of a COCO file; may be empty.
        source: path or URI of that file, for messages.
        wanted: ``data.category``, which is taken if it is a number or in the file. Without categories in the
            file, a name is an id of the persons beside COCO's 1, which results have.
        skeleton: of the poses.

    Raises:
        DataError: the file has categories, but none of the wanted name.
    """
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        number = whole_number(wanted)
        own, named = 1 if number is None else number, id_key(wanted)
        return Category({"id": own}, frozenset([own, own if named is None else named]), {}, ())
    annotations = content.get("annotations")
    entries = [c for c in categories if isinstance(c, dict)]
    fitting = [c for c in entries if joint_names(c) and not joint_order(joint_names(c), skeleton)[1]]
    # Without names of joints the category is chosen by its own name.
    plain = [{k: v for k, v in c.items() if k != "keypoints"} for c in entries]
    people = annotations if isinstance(annotations, list) else []
    return choose_category({"categories": fitting or plain, "annotations": people}, skeleton, source, wanted)


def pictures_of_list(
    found: Pictures, content: Mapping[str, Any], source: str, max_bad_share: float
) -> tuple[Pictures, list[str]]:
    """The pictures that a COCO file lists, with its names and ids.

    Args:
        found: the pictures there are.
        content: of the COCO file.
        source: its path or URI, for messages.
        max_bad_share: share of the listed pictures that may be missing.

    Returns:
        the pictures in the order of the list; a line about each kind of thing that was left out or united.

    Raises:
        DataError: the file cannot be used, or lists pictures that are not there.
    """
    images, ids, united = read_images(content["images"], source)
    names = [{"file_name": image["file_name"]} for image in images]
    index = ImageMatcher(found.names, paths=found.uris).match(names, source, "image")
    missing = Findings()
    pairs = []
    for image, i in zip(images, index, strict=True):
        if i is None:
            missing.add("image that is not among the pictures", image["file_name"])
        else:
            pairs.append((image, i))
    if not pairs:
        examples = first_few([image["file_name"] for image in images])
        what = f"{source} lists {len(images)} images and none of the pictures ({examples})"
        raise DataError(what, "give the folder in which they lie")
    missing.check(len(images), max_bad_share, source, "give the folder in which they lie")
    listed = Findings()
    if united:
        listed.add("image that is listed again", *united)
    unlisted = sorted({*range(len(found.uris))} - {i for _, i in pairs})
    if unlisted:
        listed.add(f"picture that {source} does not list", *(found.names[i] for i in unlisted))
    pictures = Pictures(
        [found.uris[i] for _, i in pairs],
        [image["file_name"] for image, _ in pairs],
        [ids.own(image["id"]) for image, _ in pairs],
    )
    return pictures, [*missing.lines(), *listed.lines()]


def relative_names(found: Sequence[tuple[str, str]]) -> list[str]:
    """Distinct names of pictures, relative to what was given.

    Args:
        found: of each picture, what was given and its name in there.

    Returns:
        the names; with as many folders of what was given before them as tell them apart.
    """
    folders = [[part for part in given.split("/") if part] for given, _ in found]
    for depth in range(max(map(len, folders), default=0) + 1):
        names = [
            "/".join([*parts[max(len(parts) - depth, 0) :], name])
            for parts, (_, name) in zip(folders, found, strict=True)
        ]
        if len({*names}) == len(names):
            break
    return names
