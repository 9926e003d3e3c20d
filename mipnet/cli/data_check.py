"""``mipnet data check``: what a data set holds, what is wrong with it, and whether a training would start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mipnet.cli.shared_options import CONFIG_HELP, STORAGE_HELP, base_config
from mipnet.config import from_dict
from mipnet.config.flags import option, parse
from mipnet.config.presets import DATASETS, dataset
from mipnet.console import say
from mipnet.experiment.outputs import writable_folder


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data check``."""

    preset: str = option("tiny", "what is to be trained: its data set, crops and augmentation")
    config: str = option("", CONFIG_HELP)
    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
    images: int = option(-1, "read so many images of each split, evenly spread; -1 reads all, 0 none")
    pictures: str = option(
        "", "folder for pictures of samples as the network gets them: crop, joints, targets"
    )
    storage: str = option("", STORAGE_HELP)


def main(command: str, argv: Sequence[str]) -> int:
    """Report on all splits that a training would use; exit status 2 if it would stop."""
    base = base_config(argv)
    sections = ["data", "input", "target", "augment", "model.instances"]
    options, settings = parse(
        command,
        "Read a data set as training would, and report.",
        Options,
        argv,
        sections=sections,
        defaults=base,
    )
    if options.dataset:
        base = replace(base, data=dataset(options.dataset))
    config = from_dict(settings, base)
    from mipnet.experiment.dataset_inspection import (
        existing_dataset,
        inspect_split_annotations,
        inspect_split_images,
        write_samples,
    )
    from mipnet.experiment.dataset_report import dataset_report

    data = existing_dataset(config, options.storage)
    pictures = writable_folder(options.pictures) if options.pictures else None

    problems: list[str] = []
    splits = inspect_split_annotations(config, data, problems)
    if options.images:
        inspect_split_images(config, splits, options.images, problems)
    say("\n".join(dataset_report(config, data, splits)))
    if pictures:
        for split, found in splits.items():
            write_samples(config, split, found, pictures)
        say(f"\npictures: {options.pictures}")
    say()
    for problem in problems:
        say(f"training would stop: {problem}")
    if not problems:
        say("ready to train")
    return 2 if problems else 0
