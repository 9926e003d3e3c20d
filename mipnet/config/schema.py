"""Every setting of a run, as typed dataclasses: the only source of flags, YAML keys, validation and help.

Batch size and learning rate are global: how many workers share the work never changes them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mipnet.config.checks import Problem, require
from mipnet.skeletons import Skeleton, skeleton

GENERATED = "generated"


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class ModelConfig:
    """The network: a top-down backbone, N instances and the places of the modulation blocks (MIMBs)."""

    backbone: Literal["hrnet", "simplebaseline"] = _option("hrnet", "the single-instance network underneath")
    instances: int = _option(2, "N: how many people of one crop the network can name; 1 is the baseline")
    places: tuple[int, ...] = _option(
        (3, 4), "where MIMBs sit, counted from the stem; none needs instances 1"
    )
    reduction: int = _option(4, "r: channel reduction inside a MIMB")
    width: int = _option(32, "hrnet: channels of the highest resolution; 32 and 48 are the paper's")
    modules: tuple[int, ...] = _option(
        (1, 4, 3), "hrnet: modules of stage 2, 3, …; its length sets the branches"
    )
    blocks: int = _option(4, "hrnet: residual blocks per branch and module")
    stage1_blocks: int = _option(4, "hrnet: bottleneck blocks of stage 1")
    stem_channels: int = _option(64, "hrnet: channels of the stem")
    depth: Literal[18, 34, 50, 101, 152] = _option(50, "simplebaseline: ResNet depth")

    @property
    def possible_places(self) -> tuple[int, ...]:
        """hrnet: in front of each later stage, and on the last one's output; simplebaseline: four layers."""
        return tuple(range(1, len(self.modules) + 2)) if self.backbone == "hrnet" else (1, 2, 3, 4)

    @property
    def stride(self) -> int:
        """Input pixels per heatmap cell."""
        return 4

    @property
    def coarsest_stride(self) -> int:
        """The input's sides must be multiples of this, or branches cannot be added to one another."""
        return 4 * 2 ** len(self.modules) if self.backbone == "hrnet" else 32


@dataclass(frozen=True)
class InputConfig:
    """The crop that the network sees."""

    width: int = _option(64, "crop width in pixels")
    height: int = _option(96, "crop height in pixels")
    padding: float = _option(1.25, "context: the box's sides are multiplied by this")

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True)
class TargetConfig:
    """The heatmaps that the network learns."""

    kind: Literal["rounded", "subpixel"] = _option(
        "subpixel", "Gaussian centre: rounded to a cell as the paper does, or at its true position"
    )
    sigma: float = _option(2.0, "standard deviation in heatmap cells (paper: 2 at 64x48 maps, 3 at 96x72)")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training crop; rotation, scale and half body as in the paper by default."""

    flip: float = _option(0.5, "probability of mirroring")
    scale: float = _option(0.35, "scale is 1 + this·randn, within 1 ± this")
    rotation: float = _option(45.0, "degrees: angle is this·randn, within ± twice this")
    rotation_probability: float = _option(0.6, "share of samples that are rotated")
    shift: float = _option(0.0, "centre moves by this·randn of the crop's size, within ± twice this")
    half_body: float = _option(0.3, "probability of cropping to the upper or lower body")
    half_body_min_joints: int = _option(8, "half body needs more visible joints than this")
    colour: float = _option(0.0, "brightness, contrast and channel gains vary by this·randn")


@dataclass(frozen=True)
class DataConfig:
    """A data set as it is downloaded: where its files lie, its joints, its splits and its boxes."""

    root: str = _option(GENERATED, f"folder or URI of the data set; '{GENERATED}' renders the benchmark")
    layout: Literal["coco", "crowdpose", "ochuman"] = _option(
        "coco", "whose files these are: where they lie, and by which rules poses are judged"
    )
    annotations: str = _option("", "where else annotations lie in the root, e.g. labels/{split}.json")
    images: str = _option("", "where else images lie in the root, e.g. pictures/{split}")
    skeleton: str | Skeleton = _option(  # noqa: RUF009
        "coco17", "which joints are annotated: coco17, crowdpose14, or a YAML file that defines them"
    )
    train: str = _option("train", "split to train on")
    tune: str = _option("tune", "split that picks the best checkpoint while training")
    evaluate: tuple[str, ...] = _option(("easy", "medium", "hard"), "splits for the final tables")
    boxes: tuple[str, ...] = _option(
        ("gt", "det5"),
        "box sources: gt, or NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE (COCO detections); {split} in "
        "FILE is the split",
    )
    box_score_threshold: float = _option(0.0, "detections below this score are left out")
    box_nms: float = _option(
        1.0, "of two detections with a higher IoU the one with the lower score is left out; 1 keeps all"
    )
    max_bad_share: float = _option(0.01, "stop when more than this share of the samples is unusable")

    @property
    def generated(self) -> bool:
        return self.root == GENERATED

    @property
    def joints(self) -> Skeleton:
        return skeleton(self.skeleton) if isinstance(self.skeleton, str) else self.skeleton

    @property
    def protocol(self) -> Literal["coco", "crowdpose"]:
        """Whose evaluation rules hold; OCHuman's are COCO's."""
        return "crowdpose" if self.layout == "crowdpose" else "coco"


@dataclass(frozen=True)
class ScenesConfig:
    """The generated benchmark (used when data.root is 'generated')."""

    seed: int = _option(0, "scenes are a pure function of (seed, index)")
    easy: int = _option(2400, "training scenes with boxes that hardly touch (IoU < 0.1)")
    medium: int = _option(3600, "training scenes with IoU 0.1 to 0.5")
    hard: int = _option(4500, "training scenes with IoU 0.5 to 0.9")
    validation: int = _option(350, "scenes of each of the splits tune, easy, medium and hard")


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    epochs: int = _option(10, "passes over the training people")
    batch_size: int = _option(16, "global batch: samples per optimiser step over all workers")
    learning_rate: float = _option(1e-3, "global peak learning rate")
    optimizer: Literal["adam", "adamw"] = _option("adam", "optimiser")
    weight_decay: float = _option(0.0, "decoupled for adamw, L2 for adam")
    schedule: Literal["step", "onecycle"] = _option("step", "learning-rate schedule")
    milestones: tuple[float, ...] = _option((70, 100), "step: epochs at which the rate drops")
    drop: float = _option(0.1, "step: factor of each drop")
    warmup: float = _option(0.08, "onecycle: share of the steps in which the rate rises")
    clip_norm: float = _option(0.0, "clip the gradient's global norm; 0 does not clip")
    ema: float = _option(0.0, "decay of the weights' moving average that is evaluated; 0 is off")
    precision: Literal["fp32", "bf16", "auto"] = _option(
        "auto", "bf16 runs the network under autocast; auto: where the device computes in bf16 natively"
    )
    accumulate: int = _option(
        1,
        "parts of a worker's share of a batch, each with its own batch norm: in turns, for less memory; "
        "on a CPU side by side, on its cores",
    )
    channels_last: bool = _option(True, "memory format of the network; false is the plain, contiguous one")
    recompute: bool = _option(False, "activation checkpointing: less memory for a second forward pass")
    compile: bool = _option(False, "torch.compile the network: minutes at the start, for long runs on GPUs")
    loss: Literal["mse", "peak"] = _option("mse", "mse: the paper's; peak: errors weighted by 1 + 10·target")
    freeze_batchnorm: bool = _option(False, "keep batch-norm statistics fixed (eval mode) while training")
    init: str = _option(
        "", "weights to start from: a run, a model folder, models:/…, or a published checkpoint (.pth)"
    )
    window_batches: int = _option(8, "batches mixed in one window of the stream: mixing against memory")
    log_steps: int = _option(25, "steps between logged metrics")
    checkpoint_steps: int = _option(500, "steps between checkpoints; each is validated on the tune split")
    max_skipped: int = _option(20, "stop when this many updates in a row were not finite")
    seed: int = _option(0, "seed of weights, order and augmentation")


@dataclass(frozen=True)
class EvaluationConfig:
    """From heatmaps to scored poses."""

    decoder: Literal["quarter", "dark", "parabola", "argmax"] = _option("dark", "peak refinement")
    flip_test: bool = _option(True, "average with the mirrored crop")
    discount: float = _option(0.9, "gamma: the score of instance i is multiplied by gamma^i")
    oks_nms: float = _option(0.9, "poses of an image with a higher OKS than this are duplicates")
    joint_threshold: float = _option(0.2, "joints below this score do not count in the pose score")
    batch_size: int = _option(64, "crops per forward pass")
    precision: Literal["fp32", "bf16", "auto"] = _option(
        "fp32",
        "of the network; bf16 is faster and differs; auto: bf16 where the device computes in it natively",
    )


@dataclass(frozen=True)
class ResourcesConfig:
    """What the run may use. Never part of a run's identity: results do not depend on it."""

    workers: int = _option(1, "training processes (one GPU each, where GPUs are used)")
    gpu: bool | Literal["auto"] = _option(
        "auto", "train and predict on GPUs; auto: if the cluster has one for each worker"
    )
    cpus_per_worker: int = _option(0, "CPU threads of a training process; 0: all cores, shared evenly")
    stream_workers: int = _option(0, "at most this many decoding tasks at once; 0: Ray decides")
    predict_workers: int = _option(1, "processes that run the network in validation and prediction")
    max_failures: int = _option(3, "restarts after lost workers before the run gives up")
    object_store_gb: float = _option(
        0.0, "shared memory of a local Ray; 0: what decoding needs; a cluster keeps its own"
    )


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs and models are recorded (MLFLOW_TRACKING_URI, else SQLite in the storage)."""

    experiment: str = _option("mipnet", "MLflow experiment")
    model_name: str = _option("mipnet", "name of the registered model")
    register: bool = _option(True, "register the best weights with the alias 'candidate'")


@dataclass(frozen=True)
class Config:
    """All settings of a run. ``preset`` says where the defaults come from."""

    preset: str = "tiny"
    model: ModelConfig = field(default_factory=ModelConfig)
    input: InputConfig = field(default_factory=InputConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def window_samples(self) -> int:
        """Training samples that one decoding task cuts and shuffles."""
        return self.train.window_batches * self.train.batch_size

    @property
    def window_bytes(self) -> int:
        """Of their crops: uint8 RGB."""
        return self.window_samples * 3 * self.input.width * self.input.height

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(width, height) of the heatmaps in cells."""
        return self.input.width // self.model.stride, self.input.height // self.model.stride


def validate(config: Config) -> Config:
    """``config`` itself if a run with it is possible.

    Raises:
        ConfigError: one line that names the field, the value and the nearest valid choice.
    """
    _require_finite(config)
    model, train = config.model, config.train
    if not 1 <= len(model.modules) <= 3 or min(model.modules) < 1:
        raise Problem(
            "model.modules", model.modules, "does not describe stages", "give 1 to 3 positive numbers"
        )
    possible = model.possible_places
    require("model.instances", model.instances, at_least=1)
    for place in model.places:
        if place not in possible:
            near = min(possible, key=lambda p: abs(p - place))
            raise Problem(
                "model.places",
                place,
                f"is not a place of {model.backbone}",
                f"choose from {', '.join(map(str, possible))}; nearest is {near}",
            )
    if len(set(model.places)) != len(model.places):
        raise Problem("model.places", model.places, "names a place twice", "name each place once")
    if model.instances > 1 and not model.places:
        raise Problem(
            "model.places",
            (),
            f"is empty, so nothing tells {model.instances} instances apart",
            f"give a place, e.g. {possible[-1]}, or set model.instances to 1",
        )
    require("model.reduction", model.reduction, at_least=1)
    require("model.blocks", model.blocks, at_least=1)
    require("model.stage1_blocks", model.stage1_blocks, at_least=1)
    require("model.stem_channels", model.stem_channels, at_least=1)
    if model.backbone == "hrnet":
        require("model.width", model.width, at_least=model.reduction if model.places else 1)
    else:
        require("model.reduction", model.reduction, at_most=64)  # channels of the narrowest place
    for name in ("width", "height"):
        side, step = getattr(config.input, name), model.coarsest_stride
        if side < step or side % step:
            near = max(step, round(side / step) * step)
            raise Problem(
                f"input.{name}",
                side,
                f"does not fit the heatmaps of {model.backbone}",
                f"use a multiple of {step}; nearest is {near}",
            )
    require("input.padding", config.input.padding, at_least=0.5)
    require("target.sigma", config.target.sigma, above=0)
    if 6 * config.target.sigma > max(config.heatmap_size):
        raise Problem(
            "target.sigma",
            config.target.sigma,
            f"does not fit a {config.heatmap_size[0]}x{config.heatmap_size[1]} heatmap",
            f"use at most {max(config.heatmap_size) / 6:.2f}",
        )
    for name in ("flip", "half_body", "rotation_probability"):
        require(f"augment.{name}", getattr(config.augment, name), at_least=0, at_most=1)
    require("augment.scale", config.augment.scale, at_least=0, at_most=0.9)
    for name in ("rotation", "shift", "colour"):
        require(f"augment.{name}", getattr(config.augment, name), at_least=0)
    _ = config.data.joints  # says which there are
    if not config.data.evaluate:
        raise Problem("data.evaluate", (), "is empty", "name at least one split")
    if not config.data.boxes:
        raise Problem("data.boxes", (), "is empty", "name at least one box source, e.g. gt")
    sources = config.data.boxes
    if len({source.partition("=")[0] for source in sources}) < len(sources):  # the tables go by the name
        raise Problem("data.boxes", sources, "has one name twice", "give each source a name of its own")
    require("data.box_nms", config.data.box_nms, above=0, at_most=1)
    require("data.max_bad_share", config.data.max_bad_share, at_least=0, at_most=1)
    for f in fields(ScenesConfig):
        require(f"scenes.{f.name}", getattr(config.scenes, f.name), at_least=0)
    if config.data.generated:
        require("scenes.validation", config.scenes.validation, at_least=1)
        require(
            "scenes.easy + medium + hard",
            config.scenes.easy + config.scenes.medium + config.scenes.hard,
            at_least=1,
        )
    counts = "epochs", "batch_size", "accumulate", "window_batches", "log_steps", "checkpoint_steps"
    for name in (*counts, "max_skipped"):
        require(f"train.{name}", getattr(train, name), at_least=1)
    require("train.learning_rate", train.learning_rate, above=0)
    for name in ("weight_decay", "clip_norm", "seed"):
        require(f"train.{name}", getattr(train, name), at_least=0)
    for name in ("warmup", "drop"):
        require(f"train.{name}", getattr(train, name), at_least=0, at_most=1)
    require("train.ema", train.ema, at_least=0, at_most=0.99999)  # 1 would keep the first weights for ever
    require("evaluation.discount", config.evaluation.discount, above=0, at_most=1)
    require("evaluation.oks_nms", config.evaluation.oks_nms, above=0, at_most=1)
    require("evaluation.batch_size", config.evaluation.batch_size, at_least=1)
    resources = config.resources
    require("resources.workers", resources.workers, at_least=1)
    require("resources.predict_workers", resources.predict_workers, at_least=1)
    if resources.object_store_gb:
        require("resources.object_store_gb", resources.object_store_gb, at_least=0.1)
    for name in ("cpus_per_worker", "stream_workers", "max_failures"):
        require(f"resources.{name}", getattr(resources, name), at_least=0)
    if train.batch_size % resources.workers:
        near = next(w for w in range(resources.workers, 0, -1) if train.batch_size % w == 0)
        raise Problem(
            "resources.workers",
            resources.workers,
            f"does not divide train.batch_size {train.batch_size}",
            f"nearest is {near}",
        )
    share = train.batch_size // resources.workers
    if share % train.accumulate:
        near = next(a for a in range(min(train.accumulate, share), 0, -1) if share % a == 0)
        raise Problem(
            "train.accumulate",
            train.accumulate,
            f"does not divide a worker's share of the batch, {share}",
            f"nearest is {near}",
        )
    if model.places and model.instances == 1 and share == train.accumulate:
        raise Problem(
            "train.batch_size",
            train.batch_size,
            "leaves one row a worker, which the batch norm of a MIMB cannot train on",
            f"use at least {2 * resources.workers * train.accumulate}",
        )
    return config


def _require_finite(config: Config) -> None:
    """No setting means anything as nan or inf, and nan slips through comparisons."""
    for section, settings in asdict(config).items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise Problem(f"{section}.{name}", value, "is not finite", "give an ordinary number")
