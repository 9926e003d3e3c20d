"""Gauges of a training for Prometheus: Ray's nodes export them, ``cluster/observability`` shows them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ray.util.metrics import Gauge

from mipnet.storage import Folder, split_uri

DESCRIPTIONS = {
    "samples_per_second": "training samples per second, of all ranks",
    "waited_for_data": "share of the time that rank 0 waited for data, 0 to 1",
    "gpu_memory_bytes": "GPU memory that PyTorch holds in rank 0; 0 on a CPU",
    "step": "training steps done",
    "checkpoint_step": "step of the last checkpoint",
    "validated_step": "step of the last checkpoint that was validated",
}
"""Name -> meaning. Prometheus sees them as ``ray_mipnet_NAME``."""


class TrainingGauges:
    """The gauges of a run that a process sets, labelled ``run`` with its name.

    Args:
        run_folder: of the run.
    """

    def __init__(self, run_folder: Folder) -> None:
        self.tags = {"run": split_uri(run_folder.uri)[1]}
        self.gauges: dict[str, Gauge] = {}

    def set(self, name: str, value: float) -> None:
        """Set one of ``DESCRIPTIONS``; it is exported from its first value on."""
        if name not in self.gauges:
            self.gauges[name] = Gauge(f"mipnet_{name}", DESCRIPTIONS[name], tuple(self.tags))
        self.gauges[name].set(value, self.tags)

    def set_training(self, row: Mapping[str, float], device: torch.device, saving: bool) -> None:
        """Set those of the training worker; it waits for no device.

        Args:
            row: of metrics, as ``MetricLogger`` adds it.
            device: that the training computes on.
            saving: this step's checkpoint is made next.
        """
        for name in ("step", "samples_per_second", "waited_for_data"):
            self.set(name, row[name])
        self.set("gpu_memory_bytes", torch.cuda.memory_reserved(device) if device.type == "cuda" else 0)
        if saving:
            self.set("checkpoint_step", row["step"])
