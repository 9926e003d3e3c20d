"""Every setting of a run, as typed dataclasses: the source of flags, YAML keys, ranges, choices and help.

Pydantic reads the ranges from the annotations. It is not imported here: that takes 0.1 s, as long as all of
``mipnet --help``. What concerns several settings is in ``validation.py``.

Batch size and learning rate are global: how many workers share the work never changes them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from mipnet.skeletons import Skeleton, skeleton

GENERATED = "generated"


@dataclass(frozen=True)
class Range:
    """The values that a number may have, as an annotation of its type; None is no limit.

    Attributes:
        ge: the value is at least this.
        gt: the value is above this.
        le: the value is at most this.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Name → limit of those that there are."""
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """For pydantic: the schema of the annotated type with these limits."""
        return {**handler(source), **self.limits}


Count = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
NonNegative = Annotated[float, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
PositiveFraction = Annotated[float, Range(gt=0, le=1)]

Precision = Literal["fp32", "tf32", "bf16"]
"""fp32; fp32 whose convolutions and matrix products a GPU rounds to TF32; bf16 under autocast."""
MICRO_BATCHES_ON_CPU = 2
"""Where ``train.gradient_accumulation_steps`` is 0."""


def option(default: Any, help: str, positional: bool = False) -> Any:
    """A setting, or a field of a command's ``Options``."""
    return field(default=default, metadata={"help": help, "positional": positional})


@dataclass(frozen=True)
class ModelConfig:
    """The network: a top-down backbone, N instances and the places of the modulation blocks (MIMBs)."""

    backbone: Literal["hrnet", "simplebaseline"] = option("hrnet", "the single-instance network underneath")
    instances: Count = option(2, "N: how many people of one crop the network can name; 1 is the baseline")
    mimb_stages: tuple[int, ...] = option(
        (3, 4), "where MIMBs sit, counted from the stem; none needs instances 1"
    )
    reduction: Count = option(4, "r: channel reduction inside a MIMB")
    width: int = option(32, "hrnet: channels of the highest resolution; 32 and 48 are the paper's")
    num_modules: tuple[int, ...] = option(
        (1, 4, 3), "hrnet: modules of stage 2, 3, …; its length sets the branches"
    )
    blocks: Count = option(4, "hrnet: residual blocks per branch and module")
    stage1_blocks: Count = option(4, "hrnet: bottleneck blocks of stage 1")
    stem_channels: Count = option(64, "hrnet: channels of the stem")
    depth: Literal[18, 34, 50, 101, 152] = option(50, "simplebaseline: ResNet depth")

    @property
    def possible_mimb_stages(self) -> tuple[int, ...]:
        """hrnet: in front of each later stage, and on the last one's output; simplebaseline: four layers."""
        return tuple(range(1, len(self.num_modules) + 2)) if self.backbone == "hrnet" else (1, 2, 3, 4)

    @property
    def stride(self) -> int:
        """Input pixels per heatmap cell."""
        return 4

    @property
    def coarsest_stride(self) -> int:
        """The input's sides must be multiples of this, or branches cannot be added to one another."""
        return 4 * 2 ** len(self.num_modules) if self.backbone == "hrnet" else 32


@dataclass(frozen=True)
class InputConfig:
    """The crop that the network sees."""

    width: int = option(64, "crop width in pixels")
    height: int = option(96, "crop height in pixels")
    padding: Annotated[float, Range(ge=0.5)] = option(1.25, "context: the box's sides are multiplied by this")

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass(frozen=True)
class TargetConfig:
    """The heatmaps that the network learns."""

    kind: Literal["rounded", "subpixel"] = option(
        "subpixel", "Gaussian centre: rounded to a cell as the paper does, or at its true position"
    )
    sigma: Positive = option(2.0, "standard deviation in heatmap cells (paper: 2 at 64x48 maps, 3 at 96x72)")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training crop; rotation, scale and half body as in the paper by default."""

    flip: Fraction = option(0.5, "probability of mirroring")
    scale: Annotated[float, Range(ge=0, le=0.9)] = option(0.35, "scale is 1 + this·randn, within 1 ± this")
    rotation: NonNegative = option(45.0, "degrees: angle is this·randn, within ± twice this")
    rotation_probability: Fraction = option(0.6, "share of samples that are rotated")
    shift: NonNegative = option(0.0, "centre moves by this·randn of the crop's size, within ± twice this")
    half_body: Fraction = option(0.3, "probability of cropping to the upper or lower body")
    half_body_min_keypoints: int = option(8, "half body needs more visible keypoints than this")
    colour: NonNegative = option(0.0, "brightness, contrast and channel gains vary by this·randn")


@dataclass(frozen=True)
class DataConfig:
    """A data set as it is downloaded: where its files lie, its joints, its splits and its boxes."""

    root: str = option(GENERATED, f"folder or URI of the data set; '{GENERATED}' renders the benchmark")
    format: Literal["coco", "crowdpose", "ochuman"] = option(
        "coco", "whose files these are: where they lie, and by which rules poses are judged"
    )
    annotations: str = option("", "where else annotations lie in the root, e.g. labels/{split}.json")
    images: str = option("", "where else images lie in the root, e.g. pictures/{split}")
    skeleton: str | Skeleton = option(
        "coco17", "which joints are annotated: coco17, crowdpose14, or a YAML file that defines them"
    )
    category: str = option("", "name or id of the people's category, where several have keypoints")
    keep_area: bool = option(
        False, "keep the file's areas of people, those that cannot be true (constants, over the box) included"
    )
    exif: Literal["auto", "displayed", "stored"] = option(
        "auto", "whether labels follow the EXIF orientation of pictures: as people see it, or as it is stored"
    )
    train: str = option("train", "split to train on")
    val: str = option("val", "split that picks the best checkpoint while training")
    evaluate: tuple[str, ...] = option(("easy", "medium", "hard"), "splits for the final tables")
    boxes: tuple[str, ...] = option(
        ("gt", "det5"),
        "box sources: gt, or NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE (COCO detections); {split} in "
        "FILE is the split",
    )
    box_score_threshold: float = option(0.0, "detections below this score are left out")
    box_nms: PositiveFraction = option(
        1.0, "of two detections with a higher IoU the one with the lower score is left out; 1 keeps all"
    )
    max_bad_share: Fraction = option(0.01, "stop when more than this share of the samples is unusable")

    @property
    def generated(self) -> bool:
        return self.root == GENERATED

    @property
    def joints(self) -> Skeleton:
        return skeleton(self.skeleton) if isinstance(self.skeleton, str) else self.skeleton

    @property
    def protocol(self) -> Literal["coco", "crowdpose"]:
        """Whose evaluation rules hold; OCHuman's are COCO's."""
        return "crowdpose" if self.format == "crowdpose" else "coco"


@dataclass(frozen=True)
class ScenesConfig:
    """The generated benchmark (used when data.root is 'generated')."""

    seed: NonNegativeInt = option(0, "scenes are a pure function of (seed, index)")
    easy: NonNegativeInt = option(2400, "training scenes with boxes that hardly touch (IoU < 0.1)")
    medium: NonNegativeInt = option(3600, "training scenes with IoU 0.1 to 0.5")
    hard: NonNegativeInt = option(4500, "training scenes with IoU 0.5 to 0.9")
    validation: NonNegativeInt = option(350, "scenes of each of the splits val, easy, medium and hard")


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    epochs: Count = option(10, "passes over the training people")
    batch_size: Count = option(16, "global batch: samples per optimiser step over all workers")
    learning_rate: Positive = option(1e-3, "global peak learning rate")
    optimizer: Literal["adam", "adamw"] = option("adam", "optimiser")
    weight_decay: NonNegative = option(0.0, "decoupled for adamw, L2 for adam")
    schedule: Literal["step", "onecycle"] = option("step", "learning-rate schedule")
    milestones: tuple[float, ...] = option((70, 100), "step: epochs at which the rate drops")
    drop: Fraction = option(0.1, "step: factor of each drop")
    warmup: Fraction = option(0.08, "onecycle: share of the steps in which the rate rises")
    clip_norm: NonNegative = option(0.0, "clip the gradient's global norm; 0 does not clip")
    ema: Annotated[float, Range(ge=0, le=0.99999)] = option(
        0.0, "decay of the weights' moving average that is evaluated; 0 is off"
    )
    precision: Literal[Precision, "auto"] = option(
        "auto",
        "bf16 runs the network under autocast; tf32 is fp32 with a GPU's TF32; auto: bf16 where the device "
        "computes in it natively, else fp32",
    )
    gradient_accumulation_steps: NonNegativeInt = option(
        1,
        "parts of a worker's share of a batch, each with its own batch norm: in turns, for less memory; "
        f"on a CPU side by side, on its cores; 0: {MICRO_BATCHES_ON_CPU} on a CPU, 1 on a GPU or with "
        "sync-batchnorm",
    )
    channels_last: bool = option(True, "memory format of the network; false is the plain, contiguous one")
    activation_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, a second forward pass"
    )
    compile: bool = option(False, "torch.compile the network: minutes at the start, for long runs on GPUs")
    loss: Literal["mse", "peak"] = option("mse", "mse: the paper's; peak: errors weighted by 1 + 10·target")
    freeze_batchnorm: bool = option(False, "keep batch-norm statistics fixed (eval mode) while training")
    sync_batchnorm: bool = option(
        False,
        "batch-norm statistics of the global batch; without it each worker has those of its share, and the "
        "result depends on their number",
    )
    init: str = option(
        "", "weights to start from: a run, a model folder, models:/…, or a published checkpoint (.pth)"
    )
    window_batches: Count = option(8, "batches mixed in one window of the stream: mixing against memory")
    log_steps: Count = option(25, "steps between logged metrics")
    checkpoint_steps: Count = option(
        500,
        "steps between checkpoints; each is validated on the validation split, or every k-th and the last, "
        "where all would take over 20 % of the time",
    )
    patience: NonNegativeInt = option(
        0,
        "end the training when so many validations in a row found no better occlusion AP; 0 is off; the "
        "learning rate still follows the schedule of all epochs",
    )
    max_hours: NonNegative = option(
        0.0,
        "end the training, to evaluate and register, so many hours after this call of the command has begun "
        "it; the same command trains on for as long; 0 is off; the learning rate as for patience",
    )
    max_skipped: Count = option(20, "stop when this many updates in a row were not finite")
    seed: NonNegativeInt = option(0, "seed of weights, order and augmentation")
    profile: NonNegativeInt = option(
        0, "trace so many steps of rank 0 with PyTorch's profiler, into the run's folder 'profile' and MLflow"
    )

    def micro_batches(self, device: str) -> int:
        """Parts of a worker's share of a batch on a type of device, "cpu" or "cuda"."""
        chosen = MICRO_BATCHES_ON_CPU if device == "cpu" and not self.sync_batchnorm else 1
        return self.gradient_accumulation_steps or chosen


@dataclass(frozen=True)
class EvaluationConfig:
    """From heatmaps to scored poses."""

    decoder: Literal["quarter", "dark", "parabola", "argmax"] = option("dark", "peak refinement")
    flip_test: bool = option(True, "average with the mirrored crop")
    discount: PositiveFraction = option(0.9, "gamma: the score of instance i is multiplied by gamma^i")
    oks_nms: PositiveFraction = option(0.9, "poses of an image with a higher OKS than this are duplicates")
    keypoint_threshold: float = option(0.2, "keypoints below this score do not count in the pose score")
    batch_size: Count = option(64, "crops per forward pass")
    precision: Literal[Precision, "auto"] = option(
        "fp32",
        "of the network; tf32 (on a GPU) and bf16 are faster and differ; auto: bf16 where the device "
        "computes in it natively, else fp32",
    )


@dataclass(frozen=True)
class ResourcesConfig:
    """What the run may use; not part of its identity (GPUs and the number of workers change the rounding)."""

    workers: int | str = option(
        1,
        "training processes (one GPU each, where GPUs are used); MIN:MAX, e.g. 2:8, on a cluster: as many as "
        "its nodes hold, fewer when one is lost, more when one joins",
    )
    resize_seconds: NonNegative = option(
        60.0, "workers MIN:MAX: see at most so often whether more fit; they start right after a checkpoint"
    )
    gpu: bool | Literal["auto"] = option(
        "auto", "train and predict on GPUs; auto: if the cluster has one for each worker"
    )
    cpus_per_worker: NonNegativeInt = option(
        0,
        "CPU threads of a training process; 0: all cores, shared evenly; with workers MIN:MAX on CPUs: three "
        "quarters of the smallest node. The number changes the rounding on a CPU",
    )
    stream_workers: NonNegativeInt = option(0, "at most this many decoding tasks at once; 0: Ray decides")
    predict_workers: NonNegativeInt = option(
        0,
        "processes that run the network in prediction, and in validation beside the training; 0: one for "
        "each GPU, or one on CPUs",
    )
    validation: Literal["auto", "inline", "beside"] = option(
        "auto",
        "who validates checkpoints: the training processes (inline), or a task beside them; auto: beside, if "
        "a GPU is left for it; the metrics are the same",
    )
    max_failures: NonNegativeInt = option(
        3, "restarts after lost workers before the run gives up; those after a notice are not counted"
    )
    object_store_gb: float = option(
        0.0, "shared memory of a local Ray; 0: what decoding needs; a cluster keeps its own"
    )

    @property
    def min_workers(self) -> int:
        """The fewest that a training runs with."""
        return int(str(self.workers).partition(":")[0])

    @property
    def max_workers(self) -> int:
        """The most that it starts."""
        return int(str(self.workers).rpartition(":")[2])

    @property
    def workers_in_words(self) -> str:
        return f"{self.min_workers} to {self.max_workers}" if self.elastic else str(self.min_workers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the nodes of the cluster."""
        return self.min_workers < self.max_workers


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs and models are recorded (MLFLOW_TRACKING_URI, else SQLite in the storage)."""

    experiment: str = option("mipnet", "MLflow experiment")
    model_name: str = option("mipnet", "name of the registered model")
    register: bool = option(True, "register the best weights with the alias 'candidate'")


@dataclass(frozen=True)
class Config:
    """All settings of a run. ``preset`` says where the defaults come from."""

    __pydantic_config__ = {"allow_inf_nan": False}  # noqa: RUF012  # nan would pass comparisons

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


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict of builtin types (tuples become lists): what YAML and JSON hold."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values
