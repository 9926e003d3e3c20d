"""Settings for a data set of one's own, proposed from what lies in its folder."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mipnet.data.categories import joint_order
from mipnet.data.joint_names import UNKNOWN_SIGMA, known_sigmas, mirrored_pairs
from mipnet.experiment.dataset_survey import JsonFile, Survey, image_folder
from mipnet.skeletons import SKELETONS

SPLIT = "{split}"
MOST_LINES = 20
"""Files or folders in the list."""


@dataclass
class Proposal:
    """Settings for ``--config``.

    Attributes:
        settings: as in YAML.
        look: what to look at before training, one line each.
        single: whether no image shows several people.
    """

    settings: dict[str, Any]
    look: list[str] = field(default_factory=list)
    single: bool = False


def propose(found: Survey, preset: str) -> Proposal:
    """Settings to train on the people of a survey, which has some.

    Args:
        found: what lies in the folder.
        preset: to train with.
    """
    pattern, splits = choose_pattern([file for file in found.files if file.kind == "keypoints"])
    train, val, test = choose_roles(splits)
    used = {split: splits[split] for split in dict.fromkeys((train, val, test))}
    look = []
    if len(used) == 1:
        look.append(f"{train} is trained on and measured; label others to measure with: these are remembered")
    images, lines = choose_images(used, found.pictures)
    skeleton, notes = choose_skeleton(splits[train])
    data: dict[str, Any] = {
        "root": found.root.uri,
        "format": "crowdpose" if splits[train].crowdpose else "coco",
        "annotations": pattern,
        **({"images": images} if images else {}),
        "skeleton": skeleton,
        "train": train,
        "val": val,
        "evaluate": [test],
        "boxes": ["gt", *box_sources(found, used)],
    }
    settings: dict[str, Any] = {"preset": preset, "data": data}
    if isinstance(skeleton, dict) and not skeleton["flip_pairs"]:
        settings |= {"augment": {"flip": 0.0}, "evaluation": {"flip_test": False}}
        notes.append("no joints of left and right are known: nothing is mirrored; else give flip_pairs")
    single = all(file.most_people == 1 for file in used.values())
    return Proposal(settings, [*look, *lines, *notes], single)


def choose_pattern(files: list[JsonFile]) -> tuple[str, dict[str, JsonFile]]:
    """The pattern of file names with {split} that fits best, and split -> file.

    Patterns with splits to train on, to validate on and to test on are best, then those with more splits; of
    these, those with the shortest names of splits, or with the longest where no name says what it is for.
    """
    patterns: dict[str, dict[str, JsonFile]] = {}
    for file in files:
        for pattern, split in patterns_of(file.name).items():
            patterns.setdefault(pattern, {})[split] = file

    def rank(item: tuple[str, dict[str, JsonFile]]) -> tuple[Any, ...]:
        pattern, splits = item
        roles = {role(split) for split in splits} - {""}
        people = sum(file.people for file in splits.values())
        length = sum(map(len, splits)) * (-1 if roles else 1)
        in_name = SPLIT in posixpath.basename(pattern)
        return len(roles), len(splits), people, in_name, length, pattern.count(SPLIT)

    return max(patterns.items(), key=rank)


def patterns_of(name: str) -> dict[str, str]:
    """Pattern with {split} -> the split for which it gives ``name``: each word of the name is one."""
    stem, suffix = posixpath.splitext(name)
    parts = re.split(r"([/_.\-]+)", stem)
    words = dict.fromkeys(word for word in parts[::2] if word)
    found = {"".join(SPLIT if part == word else part for part in parts) + suffix: word for word in words}
    whole = posixpath.basename(stem)
    return {posixpath.join(posixpath.dirname(name), SPLIT + suffix): whole, **found}


def role(split: str) -> str:
    """train, val or test, if a split's name says so."""
    for word, meaning in {"train": "train", "val": "val", "dev": "val", "test": "test"}.items():
        if word in split.lower():
            return meaning
    return ""


def choose_roles(splits: dict[str, JsonFile]) -> tuple[str, str, str]:
    """The splits to train on, to pick the checkpoint with, and to evaluate on."""
    by_people = sorted(splits, key=lambda split: (-splits[split].people, split))
    train = next((split for split in by_people if role(split) == "train"), by_people[0])
    others = [split for split in by_people if split != train]
    val = next((s for wanted in ("val", "test") for s in others if role(s) == wanted), [*others, train][0])
    test = next((split for split in others if role(split) == "test"), val)
    return train, val, test


def choose_images(splits: dict[str, JsonFile], pictures: list[str]) -> tuple[str, list[str]]:
    """The pattern of the splits' image folders, "" if there is none; and what to look at."""
    folders, look = {}, []
    for split, file in splits.items():
        folders[split], count = image_folder(file, pictures)
        total = len(set(file.images))
        if count < total:
            look.append(f"{total - count} of the {total} images of {file.name} are not in {folders[split]}")
        if not count:
            del folders[split]
    patterns = Counter(folders.values())
    for split, folder in folders.items():
        patterns.update(
            {"/".join(SPLIT if p == split else p for p in folder.split("/")), *named(folder, split)}
        )
    fitting = [p for p in patterns if all(p.replace(SPLIT, s) == f for s, f in folders.items())]
    if folders and not fitting:
        places = ", ".join(f"{split} in {folder}" for split, folder in folders.items())
        look.append(f"the images lie in folders of several names ({places}); rename them like the splits")
    return min(fitting, key=len, default=""), look


def named(folder: str, split: str) -> list[str]:
    """The pattern of a folder in whose name the split's name is a part."""
    return [folder.replace(split, SPLIT)] if split in folder else []


def choose_skeleton(file: JsonFile) -> tuple[str | dict[str, Any], list[str]]:
    """``data.skeleton`` for a file's joints, and what to look at."""
    sizes = {known.num_joints: known for known in SKELETONS.values()}
    if not file.joints:
        if file.num_joints in sizes:
            name = sizes[file.num_joints].name
            return name, [
                f"{file.name} does not name its {file.num_joints} joints; are they those of {name}?"
            ]
        joints = [f"joint_{number}" for number in range(1, file.num_joints + 1)]
        return definition(file, joints), [f"{file.name} does not name its joints: give their names"]
    for known in SKELETONS.values():
        if not joint_order(file.joints, known)[1]:
            return known.name, []
    return definition(file, file.joints), []


def definition(file: JsonFile, joints: list[str]) -> dict[str, Any]:
    """A skeleton of a file's joints: OKS constants by their names, left and right paired by theirs."""
    name = re.sub(r"\W+", "_", file.category) or "joints"
    return {
        "name": f"my_{name}" if name in SKELETONS else name,
        "joints": joints,
        "sigmas": [sigma or UNKNOWN_SIGMA for sigma in known_sigmas(joints)],
        "flip_pairs": [[joints[left], joints[right]] for left, right in mirrored_pairs(joints)],
        "limbs": [list(pair) for pair in file.limbs],
    }


def box_sources(found: Survey, splits: dict[str, JsonFile]) -> list[str]:
    """NAME=FILE of each detector whose boxes are there for all splits but the first, that to train on."""
    needed = dict(list(splits.items())[1:]) or splits
    patterns: dict[str, dict[str, JsonFile]] = {}
    for file in found.files:
        if file.kind == "detections":
            for pattern, split in {**patterns_of(file.name), file.name: ""}.items():
                patterns.setdefault(pattern, {})[split] = file
    sources, taken = {}, set()
    for pattern, files in patterns.items():
        own = {split: files.get(split) or files.get("") for split in needed}
        if any(file is None or file.name in taken or not is_of(file, needed[s]) for s, file in own.items()):
            continue
        taken |= {file.name for file in own.values() if file}
        words = [w for w in re.split(r"[/_.\-{}]+", posixpath.splitext(pattern)[0]) if w and w != "split"]
        name = "_".join(words[1:] or words) or "detections"
        while name in sources or name == "gt":
            name += "_2"
        sources[name] = found.root.path(pattern)
    return [f"{name}={path}" for name, path in sources.items()]


def is_of(detections: JsonFile, split: JsonFile) -> bool:
    """Whether detections are of a split's images."""
    return len(detections.image_ids & split.image_ids) * 2 > len(detections.image_ids)


def proposal_text(found: Survey, proposal: Proposal) -> str:
    """The settings as YAML; what was found, and what to look at, as comments in it."""
    import yaml

    listed = [file.line() for file in found.files]
    folders = [f"{folder}  {count:,} pictures" for folder, count in sorted(found.picture_folders.items())]
    lines: list[str] = []
    for names, what in ((listed, "JSON files"), (folders, "folders of pictures")):
        more = len(names) - MOST_LINES
        lines += [f"  {name}" for name in names[:MOST_LINES]]
        lines += [f"  and {more:,} more {what}"] if more > 0 else []
    lines += [f"look at this: {line}" for line in proposal.look]
    settings = yaml.safe_dump(proposal.settings, sort_keys=False, allow_unicode=True, default_flow_style=None)
    end = ["next, with this text in FILE:", "  mipnet data check --config FILE --pictures look"]
    end += ["  mipnet train --config FILE" + (" --baseline" if proposal.single else "")]
    if proposal.single:
        end += ["(--baseline: the network for one person a crop, because no image shows several)"]
    comments, last = ("\n".join(f"# {' '.join(line.splitlines())}" for line in part) for part in (lines, end))
    text = f"{comments}\n{settings}{last}"
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8
