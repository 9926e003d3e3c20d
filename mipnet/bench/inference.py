"""From crops to heatmaps, several ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mipnet.bench.device import set_tf32, wait
from mipnet.bench.plain import Repeated
from mipnet.bench.step import PLAIN, random_batch
from mipnet.config import Config
from mipnet.evaluation.decoding import flip_back
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.models.fold import fold
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalise
from mipnet.models.precision import native_bf16
from mipnet.training.checkpoint import model_from_config

Heatmaps = Callable[[Tensor], Tensor]


def trained(config: Config, device: torch.device) -> MIPNet:
    """A network in eval mode whose batch norms have seen something, so that folding them is not trivial."""
    torch.manual_seed(0)
    model = model_from_config(config).to(device)
    if isinstance(model.backbone.head, nn.Conv2d):
        nn.init.normal_(model.backbone.head.weight, std=0.1)  # fresh heatmaps are nearly zero
    images, _ = random_batch(config, 4)
    with torch.no_grad():
        for _ in range(3):
            model.train()(normalise(images.to(device)))
    return model.eval()


def ways(config: Config, model: MIPNet, device: torch.device) -> dict[str, Heatmaps]:
    """Crops (B, h, w, 3) uint8 → heatmaps (B, N, K, h/4, w/4), the plain way first."""
    size = config.input.height, config.input.width
    permutation = config.data.joints.flip_permutation
    whole = Repeated(model)

    @torch.inference_mode()
    def plain(crops: Tensor) -> Tensor:
        set_tf32(False)
        images = normalise(crops).contiguous()
        if not config.evaluation.flip_test:
            return whole(images)
        return (whole(images) + flip_back(whole(images.flip(-1)), permutation)) / 2

    def predicted(network: MIPNet, layout: torch.memory_format, tf32: bool, bf16: bool) -> Heatmaps:
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        evaluation = replace(config.evaluation, precision="bf16" if bf16 else "fp32")
        predictor = CropPredictor(network, config, evaluation, device)

        def run(crops: Tensor) -> Tensor:
            set_tf32(tf32)
            return predictor.heatmaps(crops, layout)

        return run

    contiguous, last = torch.contiguous_format, torch.channels_last
    found: dict[str, Heatmaps] = {
        PLAIN: plain,
        "prefix once, λ, flip folded": predicted(model, contiguous, False, False),
        "+ batch norm folded": predicted(fold(model, size), contiguous, False, False),
        "+ channels-last": predicted(fold(model, size), last, False, False),
    }
    if device.type == "cuda":
        found["+ TF32"] = predicted(fold(model, size), last, True, False)
    if native_bf16(device):
        found["+ bf16"] = predicted(fold(model, size), last, False, True)
    return found


def difference(heatmaps: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((heatmaps.float() - expected).abs().max() / expected.abs().max()).item()


def repeat(run: Heatmaps, crops: Tensor, times: int) -> float:
    """What a round does: ``times`` batches; returns the number of crops."""
    for _ in range(times):
        run(crops)
    wait(crops.device)
    return times * len(crops)
