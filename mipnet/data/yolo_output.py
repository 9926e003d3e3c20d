"""Write a YOLO-pose data set as COCO's JSON, a skeleton file, and settings for ``--config``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mipnet.data.yolo_dataset import YoloDataset
from mipnet.errors import DataError, from_os_error
from mipnet.skeletons import SKELETONS, Skeleton

SETTINGS_FILE, SKELETON_FILE = "mipnet.yaml", "skeleton.yaml"


def write_coco(dataset: YoloDataset, out: Path) -> Path:
    """Write a data set's annotations, skeleton and settings; its pictures stay where they are.

    A built-in skeleton gets no file.

    Args:
        dataset: of ``read_yolo``.
        out: an empty folder, or one of an earlier import, whose files are replaced.

    Returns:
        the file of settings.

    Raises:
        DataError: the folder holds something else.
        UserError: it cannot be written to.
    """
    import yaml

    out = Path(os.path.abspath(out.expanduser()))
    try:
        if out.is_dir() and os.listdir(out) and not (out / SETTINGS_FILE).is_file():
            raise DataError(f"{out} holds other files", "import into a new folder")
        (out / "annotations").mkdir(parents=True, exist_ok=True)
        info = {
            "description": f"{os.path.abspath(dataset.yaml)}, by mipnet data import",
            "left_out": dataset.left_out,
            "mended": dataset.reader.mended.lines(),
            "notes": dataset.notes,
        }
        for split, content in dataset.splits.items():
            text = json.dumps({"info": info, **content})
            (out / "annotations" / f"{split}.json").write_text(text, encoding="utf-8")
        files = {SETTINGS_FILE: _settings(dataset, out)}
        skeleton = dataset.joints.skeleton
        if skeleton.name not in SKELETONS:
            files[SKELETON_FILE] = _definition(skeleton)
        for name, values in files.items():
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
            (out / name).write_text(
                f"# {info['description']}, which replaces this file\n{text}", encoding="utf-8"
            )
    except OSError as error:
        raise from_os_error(error, f"cannot write {out}", "choose another folder") from None
    return out / SETTINGS_FILE


def _settings(dataset: YoloDataset, out: Path) -> dict[str, Any]:
    """What differs from the presets. The root holds both annotations and pictures."""
    root = Path(os.path.commonpath([out, dataset.images]))
    if root == dataset.images:
        root = root.parent
    skeleton, splits = dataset.joints.skeleton, dataset.splits
    train, val = (name if name in splits else next(iter(splits)) for name in ("train", "val"))
    labelled = [name for name, content in splits.items() if name != "train" and content["annotations"]]
    settings: dict[str, Any] = {
        "data": {
            "root": str(root),
            "annotations": f"{out.relative_to(root).as_posix()}/annotations/{{split}}.json",
            "images": dataset.images.relative_to(root).as_posix(),
            "skeleton": skeleton.name if skeleton.name in SKELETONS else str(out / SKELETON_FILE),
            "train": train,
            "val": val,
            "evaluate": labelled or [val],
            "boxes": ["gt"],
            "exif": "displayed",
        }
    }
    if dataset.person:
        settings["data"]["category"] = dataset.person
    if not dataset.joints.mirrored:
        settings |= {"augment": {"flip": 0.0}, "evaluation": {"flip_test": False}}
    return settings


def _definition(skeleton: Skeleton) -> dict[str, Any]:
    """A skeleton as its file has it, pairs by name."""
    joints = skeleton.joints
    return {
        "name": skeleton.name,
        "joints": list(joints),
        "sigmas": list(skeleton.sigmas),
        "flip_pairs": [[joints[a], joints[b]] for a, b in skeleton.flip_pairs],
        "limbs": [[joints[a], joints[b]] for a, b in skeleton.limbs],
        "upper_body": [],
    }
