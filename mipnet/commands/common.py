"""What several commands share: where the storage is, and the data set that a configuration means."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mipnet.config import Config, to_yaml
from mipnet.config.flags import say
from mipnet.storage import Folder, default_storage

if TYPE_CHECKING:
    from mipnet.inference.evaluate import Entry

SECONDS_BETWEEN_LINES = 5.0
STORAGE_HELP = "folder or URI (NFS, s3://, gs://) for data sets, runs and checkpoints [user data directory]"


def storage_at(uri: str) -> Folder:
    """The storage, after making sure that it can be written to.

    Raises:
        UserError: it cannot.
    """
    storage = Folder.of(uri) if uri else default_storage()
    storage.write(".writable", "")
    return storage


def data_folder(config: Config, storage: Folder) -> Folder:
    """The data set's folder in COCO layout; the generated benchmark is rendered if it is not there."""
    if not config.data.generated:
        return Folder.of(config.data.root)
    from mipnet.data.generate import benchmark_name, generate

    name = benchmark_name(config.scenes)
    if not storage.join("data").exists(f"{name}/manifest.json"):
        say(f"rendering the benchmark into {storage.path('data')}/{name}")
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"scene {done}/{total}")

    folder, _ = generate(config.scenes, storage, progress)
    return folder


def ceilings(config: Config, data: Folder, splits: Sequence[str]) -> dict[str, float]:
    """AP that a perfect prediction of the heatmaps would reach, by split."""
    from mipnet.data.records import CocoFile
    from mipnet.evaluation.ceiling import ceiling

    joints = config.data.joints
    return {
        split: ceiling(
            CocoFile(data, split, joints).annotations,
            joints.sigmas,
            config.input.size,
            config.target.kind,
            config.target.sigma,
            config.evaluation.decoder,
            config.model.stride,
            config.input.padding,
        )["AP"]
        for split in splits
    }


def write_results(folder: Folder, config: Config, entries: Sequence[Entry], text: str) -> None:
    """The table, the metrics, each line's poses in COCO format, and the configuration beside them."""
    from mipnet.inference.evaluate import flat_metrics

    folder.write("config.yaml", to_yaml(config))
    folder.write("table.txt", text + "\n")
    for entry in entries:
        folder.write(f"coco/{entry.name.replace('/', '-')}.json", json.dumps(entry.results))
    folder.write("metrics.json", json.dumps(flat_metrics(entries), indent=2) + "\n")  # last: all is there
