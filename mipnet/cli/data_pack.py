"""``mipnet data pack``: a data set's images in few large files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mipnet.cli.shared_options import Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import ConfigError, DataError, first_few
from mipnet.experiment.arguments import writable_folder
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder

ABOUT = "A data set's images as Parquet shards, to train on as before."
SECTIONS = ("data",)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data pack``."""

    out: str = option("", "folder or URI (NFS, s3://, gs://) of the packed data set", positional=True)
    preset: str = option("tiny", "whose data set")
    splits: tuple[str, ...] = option((), "which splits [those to train on, to validate on and to evaluate]")
    shard_images: int = option(500, "images in one file")
    verify: bool = option(False, "read everything again and compare it with the plain data set")
    verbose: bool = option(False, "lines even in a terminal")


def run(options: Options, call: Call) -> int:
    """Pack, or go on packing, and say how to train on it."""
    config = call.config
    if not options.out:
        raise ConfigError("mipnet data pack needs a folder to write to", "mipnet data pack OUT --data ROOT")
    if config.data.generated:
        hint = "give the data set's folder; mipnet data generate names its own"
        raise ConfigError("--data is needed", hint)
    if options.shard_images < 1:
        raise ConfigError(f"--shard-images: {options.shard_images} is too few", "give 1 or more")
    from mipnet.data.shards import pack, verify
    from mipnet.experiment.packing import plan_packings

    data, out = Folder.of(config.data.root), writable_folder(options.out)
    if data == out:
        raise ConfigError(f"{out.uri} is the data set itself", "pack into another folder")
    problems: list[str] = []
    packings = plan_packings(config, data, out, splits=options.splits, shard_images=options.shard_images)
    for packing in packings:
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
    say(f"next      mipnet train --data {shlex.quote(out.uri)} (and the other --data settings as before)")
    return 0
