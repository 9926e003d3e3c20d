"""From crops to keypoints: the one class that runs a trained network. Torch only; no Ray in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mipnet.config import Config, from_dict
from mipnet.config.schema import EvaluationConfig
from mipnet.errors import UserError
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps, flip_back
from mipnet.models.fold import fold
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalise
from mipnet.models.precision import native_bf16
from mipnet.models.weights import load_model


@dataclass
class CropPredictor:
    """A network in eval mode with everything around it that is not Ray.

    Attributes:
        model: the network, folded (``mipnet.models.fold``) where it comes from ``load``.
        config: what it was trained with: input size, padding, skeleton.
        evaluation: how its heatmaps are read.
        device: where it runs.
    """

    model: MIPNet
    config: Config
    evaluation: EvaluationConfig
    device: torch.device

    @classmethod
    def load(
        cls,
        folder: str | Path,
        evaluation: EvaluationConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> CropPredictor:
        """The predictor for a model folder.

        Args:
            folder: holds weights.safetensors and model.json.
            evaluation: how to read heatmaps; by default as configured in training.
            device: where to run.

        Raises:
            UserError: no such model, or a model that was saved without its configuration.
        """
        model, extra = load_model(folder, device)
        if "config" not in extra:
            raise UserError(f"{folder}/model.json has no 'config'", "it must say how crops are made")
        # Convolutions are fastest in the memory format in which ``normalise`` makes the crops.
        config = from_dict(extra["config"])
        model = fold(model, (config.input.height, config.input.width))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, config, evaluation or config.evaluation, torch.device(device))

    @torch.inference_mode()
    def heatmaps(self, crops: Tensor, layout: torch.memory_format = torch.channels_last) -> Tensor:
        """Heatmaps of all instances, averaged with the mirrored crop's if the flip test is on.

        Args:
            crops: (B, h, w, 3) uint8 RGB on the device.
            layout: memory format of the images; the network's, to be fast.

        Returns:
            (B, N, K, h/4, w/4) float32.
        """
        images = normalise(crops).contiguous(memory_format=layout)
        if self.evaluation.flip_test:
            images = torch.cat([images, images.flip(-1)])
        wanted = self.evaluation.precision
        bf16 = wanted == "bf16" or (wanted == "auto" and native_bf16(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            heatmaps = torch.cat([self.model(part) for part in self._parts(images)]).float()
        if not self.evaluation.flip_test:
            return heatmaps
        heatmaps, mirrored = heatmaps.chunk(2)
        return (heatmaps + flip_back(mirrored, self.config.data.joints.flip_permutation)) / 2

    def _parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """On a CPU as many rows at once as its caches like best; a GPU takes all."""
        rows = 16 * torch.get_num_threads() if self.device.type == "cpu" else len(images)
        return images.split(rows)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Poses of all instances of every crop.

        Args:
            crops: (B, h, w, 3) uint8 RGB, cut without rotation.
            centers: (B, 2) their centres in image px.
            sizes: (B, 2) their (w, h) in image px, padding included.

        Returns:
            (B, N, K, 3) float32: x, y in image px and the joint's score.
        """
        if not len(crops):
            n, k = self.model.instances, self.config.data.joints.num_joints
            return np.zeros((0, n, k, 3), np.float32)
        heatmaps = self.heatmaps(torch.tensor(crops, device=self.device))
        cells, scores = decode_heatmaps(heatmaps, self.evaluation.decoder)
        centers_t, sizes_t = (
            torch.as_tensor(np.array(v, np.float32), device=self.device) for v in (centers, sizes)
        )
        points = cells_to_image(cells, centers_t, sizes_t, (heatmaps.shape[-1], heatmaps.shape[-2]))
        return torch.cat([points, scores[..., None]], dim=-1).float().cpu().numpy()
