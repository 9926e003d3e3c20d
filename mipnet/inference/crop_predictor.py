"""Run a trained network on crops: normalize, flip test, decode. Plain PyTorch, no Ray and no MLflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mipnet.config import Config, from_dict
from mipnet.config.schema import EvaluationConfig
from mipnet.errors import UserError
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps, flip_back
from mipnet.evaluation.operating_point import OperatingPoint, operating_point_of
from mipnet.models.fold import fold_batch_norms
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalize
from mipnet.models.precision import device_precision, kernel_settings
from mipnet.models.weights import load_model

MAX_HEATMAP_PEAK = 1e3
"""Trained networks have peaks of about 1, random ones below 100; larger ones are of exploded weights."""


class DivergedError(UserError):
    """The heatmaps of a network are not finite, or far from anything that it was trained for."""


@dataclass
class CropPredictor:
    """A network in eval mode with pre- and postprocessing: uint8 crops to keypoints in image px.

    Attributes:
        model: the network, folded (``mipnet.models.fold``) where it comes from ``load``.
        config: the training configuration: input size, padding, skeleton.
        evaluation: flip test, precision and decoder.
        device: the device of the network.
        operating_point: scores from which poses and joints are shown; None if the model has none.
    """

    model: MIPNet
    config: Config
    evaluation: EvaluationConfig
    device: torch.device
    operating_point: OperatingPoint | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        evaluation: EvaluationConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> CropPredictor:
        """Load a model folder.

        Args:
            folder: holds weights.safetensors and model.json.
            evaluation: flip test, precision and decoder; by default those of the training configuration.
            device: the device of the network.

        Raises:
            UserError: no such model, or its configuration is missing or its operating point broken.
        """
        model, extra = load_model(folder, device)
        if "config" not in extra:
            raise UserError(f"{folder}/model.json has no 'config'", "it must say how crops are made")
        config = from_dict(extra["config"])
        point = operating_point_of(extra, f"{folder}/model.json")
        return cls.of(model, config, evaluation or config.evaluation, torch.device(device), point)

    @classmethod
    def of(
        cls,
        model: MIPNet,
        config: Config,
        evaluation: EvaluationConfig,
        device: torch.device,
        operating_point: OperatingPoint | None = None,
    ) -> CropPredictor:
        """A predictor with a folded copy of a network on ``device``; arguments as the attributes."""
        model = fold_batch_norms(model, (config.input.height, config.input.width))
        # The memory format of the crops from ``normalize``: the fastest for convolutions.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, config, evaluation, device, operating_point)

    @torch.inference_mode()
    def heatmaps(self, crops: Tensor, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
        """Heatmaps of all instances, averaged with the mirrored crop's if the flip test is on.

        Args:
            crops: (B, h, w, 3) uint8 RGB on the device.
            memory_format: of the images; fastest if it is the network's.

        Returns:
            (B, N, K, h/4, w/4) float32.
        """
        images = normalize(crops).contiguous(memory_format=memory_format)  # (B, 3, h, w)
        if self.evaluation.flip_test:
            images = torch.cat([images, images.flip(-1)])  # (2B, 3, h, w)
        precision = device_precision(self.evaluation.precision, self.device)
        with (
            kernel_settings(precision, self.device),
            torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            heatmaps = torch.cat([self.model(chunk) for chunk in self._chunks(images)]).float()
        if not self.evaluation.flip_test:
            return heatmaps
        heatmaps, mirrored = heatmaps.chunk(2)
        return (heatmaps + flip_back(mirrored, self.config.data.joints.flip_permutation)) / 2

    def _chunks(self, images: Tensor) -> Sequence[Tensor]:
        """On a CPU, equal chunks of at most 16 images per thread, which fit its caches; on a GPU all at once.

        A last chunk of a single image would be computed in another order, and so to other last digits for
        other numbers of threads.
        """
        rows = 16 * torch.get_num_threads() if self.device.type == "cpu" else len(images)
        return torch.tensor_split(images, math.ceil(len(images) / rows))

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Poses of all instances of every crop.

        Args:
            crops: (B, h, w, 3) uint8 RGB, without rotation.
            centers: (B, 2) their centres in image px.
            sizes: (B, 2) their (w, h) in image px, padding included.

        Returns:
            (B, N, K, 3) float32: x, y in image px and the keypoint's score.

        Raises:
            DivergedError: the heatmaps are no result.
        """
        if not len(crops):
            n, k = self.model.instances, self.config.data.joints.num_joints
            return np.zeros((0, n, k, 3), np.float32)
        centers_t, sizes_t = self._to_device(np.array([centers, sizes], np.float32))  # (2, B, 2)
        heatmaps = self.heatmaps(self._to_device(crops))
        cells, scores = decode_heatmaps(heatmaps, self.evaluation.decoder)
        points = cells_to_image(cells, centers_t, sizes_t, (heatmaps.shape[-1], heatmaps.shape[-2]))
        poses: np.ndarray = torch.cat([points, scores[..., None]], dim=-1).float().cpu().numpy()
        peak = np.abs(poses[..., 2]).max()
        if not peak <= MAX_HEATMAP_PEAK:  # nan too
            what = f"the network's heatmaps reach {peak:.2g}: its training has diverged"
            raise DivergedError(what, "train it again with a lower --train.learning-rate", 1)
        return poses

    def _to_device(self, array: np.ndarray) -> Tensor:
        """A copy on the device; to a GPU through pinned memory, without waiting for it."""
        gpu = self.device.type == "cuda"
        dtype = torch.uint8 if array.dtype == np.uint8 else torch.float32
        copy = torch.empty(array.shape, dtype=dtype, pin_memory=gpu)
        copy.numpy()[...] = array
        return copy.to(self.device, non_blocking=gpu)
