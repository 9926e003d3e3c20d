"""Named starting points. A preset's single-instance baseline is the same preset with N = 1 and no place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mipnet.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    InputConfig,
    ModelConfig,
    ScenesConfig,
    TargetConfig,
    TrainConfig,
)
from mipnet.errors import ConfigError, nearest


def tiny() -> Config:
    """MIPNet N = 2 on the generated crowd benchmark: minutes on two CPU cores."""
    return Config(
        preset="tiny",
        model=ModelConfig(
            instances=2, places=(2, 3), width=32, modules=(1, 1), blocks=1, stage1_blocks=1, stem_channels=32
        ),
        input=InputConfig(width=64, height=96),
        target=TargetConfig(kind="subpixel", sigma=1.25),
        augment=AugmentConfig(
            scale=0.15, rotation=12.0, rotation_probability=1.0, shift=0.04, half_body=0.0, colour=0.1
        ),
        train=TrainConfig(
            epochs=4,
            batch_size=16,
            learning_rate=5e-3,
            optimizer="adamw",
            weight_decay=1e-2,
            schedule="onecycle",
            clip_norm=5.0,
            loss="peak",
            checkpoint_steps=1500,
            log_steps=50,
        ),
    )


def debug() -> Config:
    """The whole path in about a minute on a few dozen scenes; its figures mean nothing."""
    base = tiny()
    return replace(
        base,
        preset="debug",
        model=replace(base.model, width=16),
        data=DataConfig(evaluate=("easy", "hard"), boxes=("gt", "det5")),
        scenes=ScenesConfig(easy=16, medium=16, hard=32, validation=8),
        train=replace(base.train, epochs=3, checkpoint_steps=12, log_steps=4, window_batches=2),
        evaluation=EvaluationConfig(batch_size=16),
    )


PRESETS: dict[str, Callable[[], Config]] = {"tiny": tiny, "debug": debug}


def preset(name: str) -> Config:
    """The configuration that ``name`` stands for.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown", nearest(name, PRESETS))
    return PRESETS[name]()


def describe() -> str:
    """One line per preset, for ``--help``."""
    return "\n".join(f"  {name:<10} {build.__doc__}" for name, build in PRESETS.items())
