"""``mipnet data check``: what a data set holds, what is wrong with it, and whether a training would start."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mipnet.cli.shared_options import CONFIG_HELP, DATASET_HELP, STORAGE_HELP, Call
from mipnet.config import from_dict
from mipnet.config.flags import option
from mipnet.config.presets import dataset
from mipnet.console import say
from mipnet.experiment.arguments import writable_folder

ABOUT = "Read a data set as training would, and report; with --data alone, propose settings for a folder."
SECTIONS = ("data", "input", "target", "augment", "model.instances", "resources.stream_workers")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data check``."""

    preset: str = option("tiny", "what is to be trained: its data set, crops and augmentation")
    config: str = option("", CONFIG_HELP)
    dataset: str = option("", DATASET_HELP)
    images: int = option(-1, "read so many images of each split, evenly spread; -1 reads all, 0 none")
    pictures: str = option(
        "", "folder for pictures of samples as the network gets them: crop, joints, targets"
    )
    storage: str = option("", STORAGE_HELP)


def run(options: Options, call: Call) -> int:
    """Report on all splits that a training would use; exit status 1 if it would not start.

    Of a folder in another layout it lists what is in it, and proposes settings.
    """
    base = replace(call.base, data=dataset(options.dataset)) if options.dataset else call.base
    config = from_dict(call.settings, base)
    from mipnet.experiment import dataset_check as check
    from mipnet.experiment.dataset_verdicts import STOP

    data = check.existing_dataset(config, options.storage)
    only_root = not options.config and not options.dataset and set(call.settings.get("data", ())) == {"root"}
    if only_root and (missing := check.missing_split(config, data)):
        # The list and the settings are one YAML file, for `> FILE`.
        say(check.proposed_settings(data, options.preset if options.preset != "tiny" else "small", missing))
        return 0
    pictures = writable_folder(options.pictures) if options.pictures else None

    problems: list[str] = []
    splits = check.inspect_split_annotations(config, data, problems, pictures=options.images >= 0)
    if options.images and splits:
        check.inspect_split_images(config, splits, options.images, problems)
    say("\n".join(check.dataset_report(config, data, splits)))
    if pictures:
        for split, found in splits.items():
            check.write_samples(config, split, found, pictures)
        say(f"\npictures: {options.pictures}")
    say()
    for problem in problems:
        say(f"{STOP}: {problem}")
    if not problems:
        say("ready to train")
    return 1 if problems else 0
