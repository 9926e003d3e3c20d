"""Variants of inference, from crops to heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from mipnet.bench.device import synchronize
from mipnet.bench.step import PLAIN_VARIANT, RepeatedImagesNetwork, random_batch
from mipnet.config import Config
from mipnet.evaluation.decoding import flip_back
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.models.fold import fold_batch_norms
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalize
from mipnet.models.precision import Precision, kernel_settings, native_bf16
from mipnet.training.checkpoint import model_from_config

Heatmaps = Callable[[Tensor], Tensor]


def warmed_up_model(config: Config, device: torch.device) -> MIPNet:
    """A network in eval mode with non-trivial batch-norm buffers, so that folding them changes weights."""
    torch.manual_seed(0)
    model = model_from_config(config).to(device)
    if isinstance(model.backbone.head, nn.Conv2d):
        nn.init.normal_(model.backbone.head.weight, std=0.1)  # fresh heatmaps are nearly zero
    images, _ = random_batch(config, 4)
    with torch.no_grad():
        for _ in range(3):
            model.train()(normalize(images.to(device)))
    return model.eval()


def ways(config: Config, model: MIPNet, device: torch.device) -> dict[str, Heatmaps]:
    """Functions crops (B, H, W, 3) uint8 → heatmaps (B, N, K, H/4, W/4) by name, the plain one first."""
    size = config.input.height, config.input.width
    permutation = config.data.joints.flip_permutation
    whole: Callable[[Tensor], Tensor] = RepeatedImagesNetwork(model)

    @torch.inference_mode()
    def plain(crops: Tensor) -> Tensor:
        images = normalize(crops).contiguous()
        with kernel_settings("fp32", device):
            if not config.evaluation.flip_test:
                return whole(images)
            return (whole(images) + flip_back(whole(images.flip(-1)), permutation)) / 2

    def predicted(
        network: MIPNet, memory_format: torch.memory_format, precision: Precision = "fp32"
    ) -> Heatmaps:
        network = network.to(memory_format=memory_format)  # type: ignore[call-overload]
        evaluation = replace(config.evaluation, precision=precision)
        predictor = CropPredictor(network, config, evaluation, device)
        return partial(predictor.heatmaps, memory_format=memory_format)

    contiguous, last = torch.contiguous_format, torch.channels_last
    found: dict[str, Heatmaps] = {
        PLAIN_VARIANT: plain,
        "prefix once, λ, flip folded": predicted(model, contiguous),
        "+ batch norm folded": predicted(fold_batch_norms(model, size), contiguous),
        "+ channels-last": predicted(fold_batch_norms(model, size), last),
    }
    if device.type == "cuda":
        found["+ TF32"] = predicted(fold_batch_norms(model, size), last, "tf32")
    if native_bf16(device):
        found["+ bf16"] = predicted(fold_batch_norms(model, size), last, "bf16")
    return found


def difference(heatmaps: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    return ((heatmaps.float() - expected).abs().max() / expected.abs().max()).item()


def repeat(run: Heatmaps, crops: Tensor, times: int) -> float:
    """The workload of a round: ``times`` batches; returns the number of crops."""
    for _ in range(times):
        run(crops)
    synchronize(crops.device)
    return times * len(crops)
