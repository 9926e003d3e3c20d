"""``mipnet data pack``: a data set's images in few large files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.config import from_dict, preset
from mipnet.config.flags import flag_value, option, parse
from mipnet.console import say
from mipnet.errors import ConfigError, DataError, first_few
from mipnet.experiment.outputs import writable_folder
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data pack``."""

    out: str = option("", "folder or URI (NFS, s3://, gs://) of the packed data set", positional=True)
    preset: str = option("tiny", "whose data set")
    splits: tuple[str, ...] = option((), "which splits [those to train on, to validate on and to evaluate]")
    shard_images: int = option(500, "images in one file")
    verify: bool = option(False, "read everything again and compare it with the plain data set")
    verbose: bool = option(False, "lines even in a terminal")


def main(command: str, argv: Sequence[str]) -> int:
    """Pack, or go on packing, and say how to train on it."""
    base = preset(flag_value(argv, "--preset", "tiny"))
    options, settings = parse(
        command,
        "A data set's images as Parquet shards, to train on as before.",
        Options,
        argv,
        sections=["data"],
        defaults=base,
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
    say(f"next      mipnet train --data {out.uri} (and the other --data settings as before)")
    return 0
