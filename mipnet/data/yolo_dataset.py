"""Data sets of YOLO-pose (a data.yaml, pictures, a label file each) in COCO's format.

Coordinates refer to pictures as they are displayed: that is how Ultralytics reads them, whatever EXIF says
about their stored pixels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mipnet.config.skeleton_files import yaml_of
from mipnet.data.categories import PERSON_NAMES, fold
from mipnet.data.image_headers import ImageHeader, header_of
from mipnet.data.image_names import SUFFIXES
from mipnet.data.json_values import whole_number
from mipnet.data.validation import Findings
from mipnet.data.yolo_files import YoloFiles, find_yaml, label_of
from mipnet.data.yolo_labels import LabelReader, YoloLabel
from mipnet.data.yolo_skeleton import YoloSkeleton, keypoint_shape, yolo_skeleton
from mipnet.errors import DataError

SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Name of a split -> its keys in a data.yaml."""


@dataclass
class YoloDataset:
    """A data set of YOLO-pose.

    Attributes:
        yaml: its data.yaml.
        images: the folder that holds all pictures.
        joints: what is known of the skeleton.
        classes: index -> name.
        person: name of the people's class of several; "" if all classes are taken for people.
        reader: of the label files, with what it left out and replaced.
        splits: name -> content in COCO's format; file names are relative to ``images``.
        pictures: those that cannot be used, and labels without one.
        empty: split -> its pictures that have no label file, or an empty one.
        lines_of: index of a class -> its lines.
        notes: what was decided, one line each.
    """

    yaml: Path
    images: Path
    joints: YoloSkeleton
    classes: dict[int, str]
    person: str
    reader: LabelReader
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: Findings = field(default_factory=Findings)
    empty: Counter[str] = field(default_factory=Counter)
    lines_of: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def check(self, limit: float) -> None:
        """Check that not too much is lost.

        Args:
            limit: largest fraction of lines, and of pictures, that may be left out.

        Raises:
            DataError: more is.
        """
        where, count = str(self.yaml), sum(len(content["images"]) for content in self.splits.values())
        self.reader.left_out.check(
            self.reader.lines, limit, where, "mend the labels, or kpt_shape in data.yaml"
        )
        self.pictures.check(count + self.pictures.total, limit, where, "bring pictures and labels together")

    @property
    def left_out(self) -> list[str]:
        """What was left out, a line for each kind."""
        return [*self.reader.left_out.lines(), *self.pictures.lines()]

    def class_name(self, index: int) -> str:
        """The name of a class, or one made of its index."""
        return self.classes.get(index, f"class_{index}")


def read_yolo(
    where: str | Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> YoloDataset:
    """Read a data set of YOLO-pose.

    Args:
        where: its data.yaml, or the folder that has one.
        progress: called with the number of pictures done, and of all.

    Raises:
        DataError: no data.yaml for pose, no pictures, or no labels.
        ConfigError: a file that is not YAML.
    """
    yaml = find_yaml(Path(os.path.expanduser(where)))
    content = yaml_of(yaml)
    if not isinstance(content, Mapping):
        raise DataError(f"{yaml} is no data.yaml of YOLO-pose", "give one with train, val and kpt_shape")
    shape = keypoint_shape(content, str(yaml))
    files = YoloFiles(yaml, content)
    paths = {name: found for name, keys in SPLIT_KEYS.items() if (found := files.of_split(keys))}
    if not paths:
        raise DataError(
            f"{yaml}: none of train, val and test has pictures", "check path, train and val there"
        )
    classes = _classes(content)
    people = [index for index, name in classes.items() if fold(name) in PERSON_NAMES]
    name = Path(os.path.abspath(yaml)).parent.name or "yolo"
    joints = yolo_skeleton(content, shape[0], name, str(yaml), people[0] if people else 0)
    images = Path(os.path.commonpath([path.parent for found in paths.values() for path in found]))
    person = classes[people[0]] if people and len(classes) > 1 else ""
    dataset = YoloDataset(yaml, images, joints, classes, person, LabelReader(shape, classes))
    dataset.notes += [*files.notes, *joints.notes]
    if files.missing:
        dataset.pictures.add("picture that is missing", *files.missing)
    _Conversion(dataset, files, progress).run(paths)
    return dataset


@dataclass
class _Conversion:
    """Label files and headers of pictures become COCO's images and annotations."""

    dataset: YoloDataset
    files: YoloFiles
    progress: Callable[[int, int], None]
    total: int = 0
    done: int = 0
    people: int = 0
    turned: list[str] = field(default_factory=list)
    labels: dict[Path, Path] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)

    def run(self, paths: Mapping[str, list[Path]]) -> None:
        dataset, count = self.dataset, Counter(path for found in paths.values() for path in found)
        self.total = count.total()
        for split, found in paths.items():
            images, annotations = self._split(split, found)
            dataset.splits[split] = {"images": images, "annotations": annotations, "categories": []}
        if not dataset.reader.lines:
            first = next(iter(count))
            hint = f"that of {self._short(first)} would be {label_of(first)}"
            raise DataError(f"{dataset.yaml}: no picture has labels", hint)
        categories = self._categories()
        for content in dataset.splits.values():
            content["categories"] = categories
        self._look_for_orphans(count)
        notes = dataset.notes
        missing = [name for name in ("train", "val") if name not in paths]
        notes += [f"there is no split {name!r}; {next(iter(paths))} stands in for it" for name in missing]
        if shared := [self._short(path) for path, times in count.items() if times > 1]:
            notes.append(f"pictures in more than one split: {len(shared)}, such as {shared[0]}")
        if self.shared:
            notes.append(
                f"label files of more than one picture: {len(self.shared)}, such as {self.shared[0]}"
            )
        if self.turned:
            what = f"pictures that EXIF turns: {len(self.turned)}, such as {self.turned[0]}"
            notes.append(f"{what}; labels refer to them as displayed")
        if len(categories) > 1:
            lines = ", ".join(f"{dataset.class_name(i)} ({n})" for i, n in sorted(dataset.lines_of.items()))
            which = f"people are class {dataset.person}" if dataset.person else "all are taken for people"
            notes.append(f"lines of classes: {lines}; {which} (--data.category chooses another)")

    def _split(self, split: str, paths: Iterable[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for path in paths:
            self.done += 1
            self.progress(self.done, self.total)
            size = self._size(path)
            if size is None:
                continue
            name = path.relative_to(self.dataset.images).as_posix()
            images.append({"id": self.done, "file_name": name, "width": size[0], "height": size[1]})
            label = label_of(path)
            content = label.read_bytes() if label.is_file() else b""
            if content and self.labels.setdefault(label, path) != path:
                self.shared.append(self._short(label))
            self.dataset.empty[split] += not content.strip()
            for person in self.dataset.reader.read(content, self._short(label)):
                self.people += 1
                ids = {"id": self.people, "image_id": self.done, "category_id": person.index + 1}
                annotations.append({**ids, **_annotation(person, *size)})
                self.dataset.lines_of[person.index] += 1
        return images, annotations

    def _size(self, path: Path) -> tuple[int, int] | None:
        """(width, height) of a picture as displayed; None if it cannot be used."""
        shown = self._short(path)
        try:
            shown.encode()
            header = _header(path)
        except UnicodeEncodeError:
            self.dataset.pictures.add("picture whose name is not UTF-8", ascii(shown))
            return None
        except OSError:
            header = None
        if header is None:
            self.dataset.pictures.add("picture that cannot be read", shown)
            return None
        if header.orientation != 1:
            self.turned.append(shown)
        return header.displayed

    def _categories(self) -> list[dict[str, Any]]:
        skeleton, dataset = self.dataset.joints.skeleton, self.dataset
        limbs = [[a + 1, b + 1] for a, b in skeleton.limbs]
        shared = {"keypoints": list(skeleton.joints), "skeleton": limbs}
        indices = sorted(dataset.classes) or sorted(dataset.lines_of)
        return [{"id": i + 1, "name": dataset.class_name(i), **shared} for i in indices]

    def _look_for_orphans(self, pictures: Iterable[Path]) -> None:
        """Count label files whose picture is nowhere: it was lost, or renamed."""
        known: dict[Path, set[str]] = {}
        missing = {Path(name.replace("\\", "/")).stem for name in self.files.missing}  # counted already
        for path in pictures:
            folder = label_of(path).parent
            if folder not in known:
                names = (Path(name) for name in os.listdir(path.parent))
                known[folder] = missing | {n.stem for n in names if n.suffix.lower() in SUFFIXES}
        labels = [label for folder in known if folder.is_dir() for label in sorted(folder.glob("*.txt"))]
        for label in (label for label in labels if label.stem not in known[label.parent]):
            if LabelReader(self.dataset.reader.shape).read(label.read_bytes(), ""):  # else it is other text
                self.dataset.pictures.add("label file without a picture", self._short(label))

    def _short(self, path: Path) -> str:
        base = self.files.base
        return os.path.relpath(path, base) if path.is_relative_to(base) else str(path)


def _annotation(person: YoloLabel, width: int, height: int) -> dict[str, Any]:
    """Box and keypoints as COCO has them, in px of the picture as displayed."""
    x, y, w, h = person.box.tolist()
    box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    keypoints = [round(value, 3) for value in (person.keypoints * (width, height, 1)).ravel().tolist()]
    keypoints[2::3] = [int(v) for v in keypoints[2::3]]
    return {
        "bbox": [round(value, 3) for value in box],
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "iscrowd": 0,
    }


def _header(path: Path) -> ImageHeader | None:
    def read(limit: int | None) -> bytes:
        with path.open("rb") as file:
            return file.read(limit)

    return header_of(read)


def _classes(content: Mapping[str, Any]) -> dict[int, str]:
    """``names`` by index, a list or a mapping; {} without them."""
    given = content.get("names")
    pairs = (
        given.items() if isinstance(given, Mapping) else enumerate(given if isinstance(given, list) else [])
    )
    found = {whole_number(index): str(name) for index, name in pairs}
    return {index: name for index, name in found.items() if index is not None}
