"""Named starting points: two on generated data, one for one's own, and the paper's for each data set, network
and size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

from mipnet.config import schema
from mipnet.config.schema import Config, DataConfig, InputConfig, ModelConfig, TrainConfig
from mipnet.errors import ConfigError, suggest


def tiny() -> Config:
    """MIPNet N = 2 on the generated crowd benchmark: minutes on two CPU cores."""
    return Config(
        preset="tiny",
        model=ModelConfig(
            instances=2,
            mimb_stages=(2, 3),
            width=32,
            num_modules=(1, 1),
            blocks=1,
            stage1_blocks=1,
            stem_channels=32,
        ),
        input=InputConfig(width=64, height=96),
        target=schema.TargetConfig(kind="subpixel", sigma=1.25),
        augment=schema.AugmentConfig(
            scale=0.15, rotation=12.0, rotation_probability=1.0, shift=0.04, half_body=0.0, colour=0.1
        ),
        train=TrainConfig(
            epochs=4,
            batch_size=16,
            gradient_accumulation_steps=0,  # on a CPU 2, in parallel, one core each
            learning_rate=5e-3,
            optimizer="adamw",
            weight_decay=1e-2,
            schedule="onecycle",
            clip_norm=5.0,
            loss="peak",
            checkpoint_steps=1500,
            log_steps=50,
            window_batches=32,  # 512 crops, 9 MB: a task takes much longer than its start
        ),
        # Chosen on the validation split. DARK's wide blur costs 7 AP on maps of 16 x 24 cells; any discount
        # up to 0.7 and any threshold from 0.95 up give the same AP within 0.2.
        evaluation=schema.EvaluationConfig(decoder="parabola", discount=0.5, oks_nms=0.95, precision="auto"),
    )


def debug() -> Config:
    """The whole path in about a minute on a few dozen scenes; its figures mean nothing."""
    base = tiny()
    return replace(
        base,
        preset="debug",
        model=replace(base.model, width=16),
        data=DataConfig(evaluate=("easy", "hard"), boxes=("gt", "det5")),
        scenes=schema.ScenesConfig(easy=16, medium=16, hard=32, validation=8),
        train=replace(base.train, epochs=3, checkpoint_steps=12, log_steps=4, window_batches=2),
        evaluation=replace(base.evaluation, batch_size=16),
    )


def small() -> Config:
    """One's own small data set: tiny's network on crops of 96x128 px, minutes to an hour on a CPU."""
    base = tiny()
    return replace(
        base,
        preset="small",
        input=InputConfig(width=96, height=128),
        data=DataConfig(root="data", evaluate=("val",), boxes=("gt",)),
        train=replace(base.train, epochs=60, checkpoint_steps=250, log_steps=25, window_batches=8),
    )


DATASETS = {
    "coco": DataConfig(
        root="data/coco", train="train2017", val="val2017", evaluate=("val2017",), boxes=("gt",)
    ),
    "crowdpose": DataConfig(
        root="data/crowdpose",
        format="crowdpose",
        skeleton="crowdpose14",
        val="val",
        evaluate=("val", "test"),
        boxes=("gt",),
    ),
    "ochuman": DataConfig(
        root="data/ochuman",
        format="ochuman",
        train="val",  # OCHuman has no training split; it is meant for evaluation only
        val="val",
        evaluate=("val", "test"),
        boxes=("gt",),
    ),
}
"""The real data sets as they are downloaded."""

TRAINED_ON = ("coco", "crowdpose")
BACKBONES = {
    "hrnet-w32": ModelConfig(width=32),
    "hrnet-w48": ModelConfig(width=48),
    "simplebaseline-r50": ModelConfig(backbone="simplebaseline", depth=50),
    "simplebaseline-r101": ModelConfig(backbone="simplebaseline", depth=101),
    "simplebaseline-r152": ModelConfig(backbone="simplebaseline", depth=152),
}
SIZES = {"256x192": (InputConfig(192, 256), 2.0), "384x288": (InputConfig(288, 384), 3.0)}
"""The paper's height x width -> input and sigma."""

# (epochs, epochs at which the learning rate drops) by the weights that training starts from.
FROM_SINGLE_INSTANCE = 110, (70.0, 100.0)
FROM_IMAGENET = 210, (170.0, 200.0)


def papers(data: str, backbone: str, size: str) -> Config:
    """The paper's recipe for MIPNet: N = 2, MIMBs at places 3 and 4, from a single-instance checkpoint."""
    image, sigma = SIZES[size]
    epochs, milestones = FROM_SINGLE_INSTANCE
    return Config(
        preset=f"{data}-{backbone}-{size}",
        model=BACKBONES[backbone],
        input=image,
        target=schema.TargetConfig(kind="rounded", sigma=sigma),
        data=DATASETS[data],
        train=TrainConfig(
            epochs=epochs,
            milestones=milestones,
            batch_size=128,  # the reference's 4 GPUs with 32 each; 16 each on 8
            window_batches=8,  # 1024 crops: seconds of work for a core, 340 MB at 384x288 px
            checkpoint_steps=2000,
        ),
        evaluation=schema.EvaluationConfig(decoder="quarter"),
    )


PAPER_PRESETS = {"-".join(choice): choice for choice in product(TRAINED_ON, BACKBONES, SIZES)}
PRESETS: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "debug": debug,
    "small": small,
    **{name: partial(papers, *choice) for name, choice in PAPER_PRESETS.items()},
}


def preset(name: str) -> Config:
    """The configuration that ``name`` stands for.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown", suggest(name, PRESETS))
    return PRESETS[name]()


def dataset(name: str) -> DataConfig:
    """The real data set of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DATASETS:
        raise ConfigError(f"--dataset: {name!r} is unknown", suggest(name, DATASETS))
    return DATASETS[name]


def baseline(config: Config) -> Config:
    """The single-instance network of ``config``: N = 1 and no MIMB.

    Where the schedule is the paper's for MIPNet, it becomes the paper's for a network from ImageNet.
    """
    train = config.train
    if (train.epochs, train.milestones) == FROM_SINGLE_INSTANCE:
        epochs, milestones = FROM_IMAGENET
        train = replace(train, epochs=epochs, milestones=milestones)
    return replace(config, model=replace(config.model, instances=1, mimb_stages=()), train=train)


def missing_start(config: Config) -> str:
    """One line about the weights that the paper's recipe starts from and this run does not; else ""."""
    if config.preset not in PAPER_PRESETS or config.train.init:
        return ""
    wanted = "a trained single-instance network" if config.model.instances > 1 else "ImageNet weights"
    return f"warning: starting from random weights; the paper starts from {wanted}: give it with --train.init"


def describe() -> str:
    """The presets, for ``--help``."""
    return f"""\
  tiny       {tiny.__doc__}
  debug      {debug.__doc__}
  small      {small.__doc__}
  DATA-NETWORK-SIZE, e.g. coco-hrnet-w32-256x192
             {papers.__doc__}
             DATA: {", ".join(TRAINED_ON)}
             NETWORK: {", ".join(BACKBONES)}
             SIZE (height x width): {", ".join(SIZES)}"""
