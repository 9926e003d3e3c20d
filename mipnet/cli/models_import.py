"""``mipnet models import``: published weights as a model folder."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mipnet.cli.shared_options import Call
from mipnet.config import Config, preset
from mipnet.config.flags import option
from mipnet.config.schema import InputConfig
from mipnet.console import say
from mipnet.errors import UserError, first_few, one_line
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.models.reference_checkpoints import ImportedCheckpoint

DATASETS_OF = {"coco17": ("coco", "ochuman", "humanart"), "crowdpose14": ("crowdpose",)}
"""MMPose's names of the data sets of a skeleton."""

ABOUT = "Turn published weights into a model folder; the network is recognised by names and shapes."
SECTIONS = ("input",)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet models import``."""

    file: str = option(
        "", "checkpoint of MIPNet, HRNet, SimpleBaseline or a ResNet (.pth, .safetensors)", positional=True
    )
    out: str = option("", "folder for the model")
    skeleton: str = option("", "whose joints: coco17, crowdpose14 or a YAML file [that with as many joints]")


def base() -> Config:
    """The input size of the published networks."""
    from mipnet.models.reference_checkpoints import DEFAULT_INPUT_SIZE

    return replace(preset("tiny"), input=InputConfig(*DEFAULT_INPUT_SIZE))


def run(options: Options, call: Call) -> int:
    """Recognise a checkpoint, write it as a model folder and say what became of it."""
    from mipnet.models.costs import count_parameters
    from mipnet.models.reference_checkpoints import import_checkpoint
    from mipnet.models.weights import MAX_NAMES_IN_MESSAGE, build_from_description

    if not options.file or not options.out:
        raise UserError("which file, and where to", "mipnet models import FILE --out DIR")
    config, out = call.config, Folder.of(options.out)
    with TemporaryDirectory() as scratch:
        done = import_checkpoint(options.file, scratch, config.input.size, options.skeleton)
        out.upload(Path(scratch))

    import torch

    from mipnet.cli.models_summary import describe_network

    with torch.device("meta"):
        model = build_from_description(done.architecture, options.file)
    say(describe_network(done.config))
    for note in done.notes:
        say(note)
    if done.uninitialized:
        say(f"random in what starts from it: {done.uninitialized}")
    else:
        say(f"{count_parameters(model):,} parameters, all from {options.file}")
        for line in assumed(done, options.skeleton, sorted(call.settings.get("input", {}))):
            say(line)
    if done.unused:
        say(f"not used: {first_few(modules(done.unused), MAX_NAMES_IN_MESSAGE)}")
    say(f"model: {out.uri}")
    verb = "train --train.init" if done.uninitialized else "evaluate"
    say(f"next   mipnet {verb} {shlex.quote(out.uri)} --data FOLDER")
    return 0


def assumed(done: ImportedCheckpoint, skeleton: str, given: Sequence[str]) -> list[str]:
    """What was assumed, as the tensors do not say it: whose joints they are, and the size of the crops.

    Args:
        done: the import.
        skeleton: as it was named; "" if it was not.
        given: settings of the crop that were given.
    """
    joints, (width, height) = done.config.data.joints, done.config.input.size
    lines = []
    if not skeleton:
        lines.append(
            f"taken for {joints.name} because it has {joints.num_joints} joints; else give --skeleton"
        )
        if done.dataset and done.dataset.lower() not in DATASETS_OF.get(joints.name, ()):
            what = f"it was trained on {one_line(done.dataset)}, whose joints may be others"
            lines.append(f"warning: {what}, or in another order; name them with --skeleton")
    if not {"width", "height"} & {*given}:
        lines.append(f"input {width}x{height} is assumed; else give --input.width and --input.height")
    return lines


def modules(names: Sequence[str]) -> list[str]:
    """Tensor names by module: a classifier has hundreds of them."""
    counts = Counter(name.partition(".fuse_layers." if ".fuse_layers." in name else ".")[0] for name in names)
    return [f"{module} ({count} tensors)" for module, count in counts.items()]
