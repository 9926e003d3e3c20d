"""Variants of a training step, and the plain network that benchmarks compare with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mipnet.bench.device import synchronize
from mipnet.config import Config
from mipnet.models.costs import multiply_adds
from mipnet.models.mimb import MIMB
from mipnet.models.network import MIPNet
from mipnet.models.precision import Precision, native_bf16
from mipnet.training.checkpoint import model_from_config
from mipnet.training.losses import heatmap_loss
from mipnet.training.step import TrainStep

PLAIN_VARIANT = "images repeated N times"


@dataclass(frozen=True)
class Variant:
    """How a variant differs from the plain one."""

    name: str
    repeated: bool = False
    channels_last: bool = False
    precision: Precision = "fp32"
    compile: bool = False


def variants(device: torch.device, compile: bool) -> list[Variant]:
    """The plain variant, then each with one optimization more than the one before."""
    found = [Variant(PLAIN_VARIANT, repeated=True), Variant("prefix once, λ folded")]
    last = replace(found[-1], name="+ channels-last", channels_last=True)
    found.append(last)
    if device.type == "cuda":
        last = replace(last, name="+ TF32", precision="tf32")
        found.append(last)
    if native_bf16(device):
        last = replace(last, name="+ bf16", precision="bf16")
        found.append(last)
    if compile:
        found.append(replace(last, name="+ compile", compile=True))
    return found


class StepWorkload:
    """A whole training step, optimizer included, on a fixed random batch.

    Attributes:
        peak_memory: bytes on a GPU, of all calls so far, without those held by other variants.
    """

    def __init__(
        self, config: Config, variant: Variant, batch: int, steps: int, device: torch.device
    ) -> None:
        before = _allocated(device)
        train = replace(config.train, channels_last=variant.channels_last, compile=variant.compile)
        torch.manual_seed(0)
        model = model_from_config(config)
        self.step = TrainStep(model, replace(config, train=train), 10**6, device, variant.precision)
        if variant.repeated:
            self.step.network = RepeatedImagesNetwork(self.step.model)
        self.variant, self.steps, self.device = variant, steps, device
        self.images, self.keypoints = (t.to(device) for t in random_batch(config, batch))
        self.peak_memory, self._held = 0, _allocated(device) - before

    def __call__(self) -> float:
        """Make ``steps`` steps; returns the number of samples."""
        before = _allocated(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(self.steps):
            self.step(self.images, self.keypoints)
        synchronize(self.device)
        if self.device.type == "cuda":
            others = before - self._held
            self.peak_memory = max(self.peak_memory, torch.cuda.max_memory_allocated(self.device) - others)
            self._held = _allocated(self.device) - others
        return self.steps * len(self.images)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def random_batch(config: Config, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crops (B, H, W, 3) uint8 and keypoints (B, N, K, 3) float32 in crop px, all visible and inside."""
    g = torch.Generator().manual_seed(seed)
    width, height = config.input.size
    images = torch.randint(0, 256, (batch, height, width, 3), generator=g, dtype=torch.uint8)
    keypoints = torch.rand(batch, config.model.instances, config.data.joints.num_joints, 3, generator=g)
    return images, keypoints * torch.tensor([width - 1.0, height - 1.0, 0.0]) + torch.tensor([0, 0, 2.0])


def step_flops(config: Config) -> float:
    """Flop of one sample in a step: two per multiply-add, and a backward pass costs two forward passes."""
    with torch.device("meta"):
        model = model_from_config(config)
    return 6 * multiply_adds(model, (config.input.height, config.input.width)).total


def gradient_difference(config: Config, batch: int = 3) -> float:
    """Largest relative difference of gradients between MIPNet and the plain network, in fp64 on the CPU.

    Per tensor, the norm of the difference over the norm. The gradient of a bias before a batch norm is only
    rounding, so every norm counts as at least 1e-6 of that of all gradients.
    """
    torch.manual_seed(0)
    ours = model_from_config(config).double().train()
    theirs = RepeatedImagesNetwork(copy.deepcopy(ours))
    found = [_gradients(ours, config, batch), _gradients(theirs, config, batch)]
    least = 1e-6 * torch.nn.utils.get_total_norm(found[1])
    pairs = zip(*found, strict=True)
    largest: float = max(((a - b).norm() / b.norm().clamp(min=least)).item() for a, b in pairs)
    return largest


def _gradients(network: nn.Module, config: Config, batch: int) -> list[Tensor]:
    width, height = config.heatmap_size
    g = torch.Generator().manual_seed(1)
    shape = batch, config.model.instances, config.data.joints.num_joints
    images = torch.randn(batch, 3, config.input.height, config.input.width, generator=g, dtype=torch.float64)
    targets = torch.rand(*shape, height, width, generator=g, dtype=torch.float64)
    loss, _ = heatmap_loss(network(images), targets, torch.ones(shape), config.train.loss)
    torch.autograd.backward(loss)
    return [p.grad for p in network.parameters() if p.grad is not None]


class RepeatedImagesNetwork(nn.Module):
    """Runs the whole network on N copies of each image: the definition of MIPNet, nothing shared."""

    def __init__(self, model: MIPNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, N, K, h, w)."""
        model, count = self.model, self.model.instances
        features: Tensor | list[Tensor] = images.repeat_interleave(count, 0)  # (B·N, 3, H, W)
        rows = torch.arange(count, device=images.device).repeat(len(images))  # (B·N,)
        for index, stage in enumerate(model.backbone.stages):
            features = stage(features)
            for number in model.mimb_stages:
                if model.backbone.insertion_points[number].after_stage == index:
                    features = _modulated(model.mimbs[str(number)], features, rows)
        heatmaps: Tensor = model.backbone.head(features)  # (B·N, K, h, w)
        return torch.unflatten(heatmaps, 0, (len(images), count))


def _modulated(mimbs: nn.Module, features: Tensor | list[Tensor], rows: Tensor) -> Tensor | list[Tensor]:
    branches = [features] if isinstance(features, Tensor) else features
    results = []
    for mimb, branch in zip(mimbs.children(), branches, strict=True):
        assert isinstance(mimb, MIMB)
        results.append(mimb(branch, rows))
    return results[0] if isinstance(features, Tensor) else results
