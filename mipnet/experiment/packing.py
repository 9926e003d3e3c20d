"""``mipnet data pack``: which images of a data set go into which shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.shards import PackedImage, PackingJob, sha256
from mipnet.experiment.datasets import open_splits
from mipnet.storage import Folder, relative_name, split_uri


def plan_packings(
    config: Config, data: Folder, out: Folder, *, splits: Sequence[str] = (), shard_images: int
) -> list[PackingJob]:
    """Plan one packing for each image folder; annotation files and boxes are copied as they are.

    Of a split that is only trained on, the images without people are left out.

    Args:
        config: of the data set.
        data: its folder.
        out: folder of the packed data set.
        splits: to pack; by default those to train on, to validate on and to evaluate.
        shard_images: images in one file.
    """
    wanted = config.data
    splits = list(splits or dict.fromkeys((wanted.train, wanted.val, *wanted.evaluate)))
    skeleton = wanted.skeleton if isinstance(wanted.skeleton, str) else asdict(wanted.skeleton)
    about = {"layout": wanted.format, "skeleton": skeleton, "splits": splits}
    folders: dict[str, dict[str, PackedImage]] = {}
    digests: dict[str, dict[str, str]] = {}
    for split, file in open_splits(config, data, splits).items():
        parent, name = split_uri(file.path)
        content = parent.read(name)
        out.write(relative_name(data, file.path), content)
        digests.setdefault(file.images_uri, {})[relative_name(data, file.path)] = sha256(content)
        only_trained = split == wanted.train and split not in (wanted.val, *wanted.evaluate)
        for image in packed_images(file, only_trained):
            folders.setdefault(file.images_uri, {}).setdefault(image.name, image)
    for name in data.join("boxes").stats():  # of files only: notebooks leave folders
        out.write(f"boxes/{name}", data.read(f"boxes/{name}"))
    jobs = []
    for uri, images in folders.items():
        chosen = [images[name] for name in sorted(images)]
        facts = {**about, "annotations": digests[uri]}
        jobs.append(PackingJob(Folder(uri), out.join(relative_name(data, uri)), chosen, shard_images, facts))
    return jobs


def packed_images(file: CocoKeypointFile, only_people: bool) -> list[PackedImage]:
    """The images of a split with their annotations.

    Args:
        file: of the split.
        only_people: leave out the images without people to train on.
    """
    chosen = file.people().images.ids.tolist() if only_people else file.images().ids.tolist()
    people: dict[int, list[dict[str, Any]]] = {}
    for person in file.whole_annotations()["annotations"]:
        people.setdefault(person["image_id"], []).append(person)
    names, images = file.file_names, []
    for image_id in chosen:
        images.append(
            PackedImage(file.image_names[names[image_id]], image_id, json.dumps(people.get(image_id, [])))
        )
    return images
