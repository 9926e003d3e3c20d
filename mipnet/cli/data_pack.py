"""``mipnet data pack``: a data set's images in few large files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mipnet.config import Config, from_dict, preset
from mipnet.config.flags import chosen, option, parse
from mipnet.console import say
from mipnet.errors import ConfigError, DataError, first_few
from mipnet.experiment.common import open_splits, output_folder
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder, contained, parent_of

if TYPE_CHECKING:
    from mipnet.data.coco import CocoFile
    from mipnet.data.shards import PackedImage, Packing


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data pack``."""

    out: str = option("", "folder or URI (NFS, s3://, gs://) of the packed data set", positional=True)
    preset: str = option("tiny", "whose data set")
    splits: tuple[str, ...] = option((), "which splits [those to train on, to tune and to evaluate]")
    shard_images: int = option(500, "images in one file")
    verify: bool = option(False, "read everything again and compare it with the plain data set")
    verbose: bool = option(False, "lines even in a terminal")


def main(command: str, argv: Sequence[str]) -> int:
    """Pack, or go on packing, and say how to train on it."""
    base = preset(chosen(argv, "--preset", "tiny"))
    options, settings = parse(
        command,
        "A data set's images as Parquet shards, to train on as before.",
        Options,
        ["data"],
        base,
        argv,
    )
    config = from_dict(settings, base)
    if not options.out:
        raise ConfigError("mipnet data pack needs a folder to write to", "mipnet data pack OUT --data ROOT")
    if config.data.generated:
        raise ConfigError(
            "--data is needed", "give the data set's folder; mipnet data generate names its own"
        )
    if options.shard_images < 1:
        raise ConfigError(f"--shard-images: {options.shard_images} is too few", "give 1 or more")
    from mipnet.data.shards import pack, verify

    data, out = Folder.of(config.data.root), output_folder(options.out)
    if data == out:
        raise ConfigError(f"{out.uri} is the data set itself", "pack into another folder")
    problems: list[str] = []
    for packing in plan(config, data, out, options):
        with Progress("packing", "shard", options.verbose) as progress:
            manifest = pack(packing, progress.update)
        say(
            f"{packing.target.uri}: {manifest['images']} images, {manifest['people']} people, "
            f"{len(manifest['shards'])} shard(s), {manifest['bytes'] / 1e9:.3f} GB"
        )
        if missing := manifest["missing"]:
            say(f"left out  {len(missing)} x image that cannot be read: {first_few(missing)}")
        if options.verify:
            problems += [f"{packing.target.uri}: {p}" for p in verify(packing.target, packing.source)]
    if problems:
        raise DataError(f"the packed data set is damaged: {first_few(problems)}", "remove it and pack again")
    if options.verify:
        say("verified: every image is the same in both")
    say(f"next      mipnet train --data {out.uri} (and the other --data settings as before)")
    return 0


def plan(config: Config, data: Folder, out: Folder, options: Options) -> list[Packing]:
    """One packing for each image folder; annotation files and boxes are copied as they are.

    Of a split that is only trained on, the images without people are left out.
    """
    from mipnet.data.shards import Packing, sha256

    wanted = config.data
    splits = list(options.splits or dict.fromkeys((wanted.train, wanted.tune, *wanted.evaluate)))
    skeleton = wanted.skeleton if isinstance(wanted.skeleton, str) else asdict(wanted.skeleton)
    about = {"layout": wanted.layout, "skeleton": skeleton, "splits": splits}
    folders: dict[str, dict[str, PackedImage]] = {}
    digests: dict[str, dict[str, str]] = {}
    for split, file in open_splits(config, data, splits).items():
        parent, name = parent_of(file.path)
        content = parent.read(name)
        out.write(inside(data, file.path), content)
        digests.setdefault(file.images_uri, {})[inside(data, file.path)] = sha256(content)
        only_trained = split == wanted.train and split not in (wanted.tune, *wanted.evaluate)
        for image in packed_images(file, only_trained):
            folders.setdefault(file.images_uri, {}).setdefault(image.name, image)
    for name in data.names("boxes"):
        out.write(f"boxes/{name}", data.read(f"boxes/{name}"))
    return [
        Packing(
            Folder(uri),
            out.join(inside(data, uri)),
            [images[name] for name in sorted(images)],
            options.shard_images,
            {**about, "annotations": digests[uri]},
        )
        for uri, images in folders.items()
    ]


def packed_images(file: CocoFile, only_people: bool) -> list[PackedImage]:
    """The images of a split with their people.

    Args:
        file: of the split.
        only_people: no images without anybody to train on.
    """
    from mipnet.data.shards import PackedImage

    shown = file.people()[0].images.ids.tolist() if only_people else sorted(file.coco.imgs)
    return [
        PackedImage(
            contained(file.coco.imgs[image_id]["file_name"], file.images_uri),
            image_id,
            json.dumps(file.coco.imgToAnns.get(image_id, [])),
        )
        for image_id in shown
    ]


def inside(data: Folder, uri: str) -> str:
    """The name in the data set's folder of one of its files or folders."""
    root = data.uri.partition("?")[0].rstrip("/") + "/"
    return uri.partition("?")[0].removeprefix(root)
