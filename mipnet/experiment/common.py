"""What several commands share: where the storage is, and the data set that a configuration means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mipnet.config import Config, from_dict, preset, read_yaml, to_yaml
from mipnet.config.flags import chosen
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say, say_once
from mipnet.errors import UserError, refusal
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder, storage_named

if TYPE_CHECKING:
    from mipnet.data.coco import CocoFile
    from mipnet.evaluation.predicted_poses import PredictionsBySplit
    from mipnet.evaluation.result_rows import Entry

CONFIG_HELP = "YAML file of settings on top of the preset; flags win over it"
STORAGE_HELP = "folder or URI (NFS, s3://, gs://) for data sets, runs and checkpoints [user data directory]"


def chosen_base(argv: Sequence[str]) -> Config:
    """The YAML file of ``--config`` on top of its preset or ``--preset``'s: the defaults of all other flags.

    Raises:
        ConfigError: a file or a preset that is not there, or settings that cannot work.
    """
    path = chosen(argv, "--config", "")
    from_file = read_yaml(path) if path else {}
    name = chosen(argv, "--preset", str(from_file.get("preset", "tiny")))
    return from_dict({**from_file, "preset": name}, preset(name))


def storage_at(uri: str) -> Folder:
    """The storage, after making sure that it can be written to.

    Raises:
        UserError: it cannot.
    """
    storage = storage_named(uri)
    storage.write(".writable", "")
    return storage


def output_folder(where: str) -> Folder:
    """The folder of ``--out``, after making sure that it can be written to.

    Raises:
        UserError: it cannot.
    """
    folder = Folder.of(where)
    try:
        folder.write(".writable", "")
        folder.remove(".writable")
    except UserError as error:
        raise UserError(error.what, error.mend.replace("--storage", "--out")) from None
    return folder


def check_json(path: str) -> None:
    """Make sure that the file of ``--json`` can be written: its folder is made, an old file stays as it is.

    Raises:
        UserError: it cannot.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("a").close()
        if new:
            file.unlink()
    except OSError as error:
        raise refusal(error, f"cannot write {path}", "choose another file with --json") from None


def usable_model(uri: str, storage: Folder) -> tuple[Folder, Config]:
    """A model's folder and configuration, after loading it once: what is wrong with it is said at once.

    The resources in the configuration are those of the machine that trained it; here they are the defaults.

    Raises:
        UserError: there is no such model, or it cannot be used.
    """
    from mipnet.models.weights import load_model
    from mipnet.registry.resolve import model_config, resolve_model

    model = resolve_model(uri, storage)
    config = replace(model_config(model), resources=ResourcesConfig())
    try:
        with TemporaryDirectory() as scratch:
            load_model(model.download(Path(scratch)))
    except UserError as error:
        raise UserError(error.what, error.mend or "copy the model again, or choose another") from None
    return in_storage(model, storage) if uri.startswith(("models:", "runs:")) else model, config


def in_storage(model: Folder, storage: Folder) -> Folder:
    """A model's folder where every node sees it: what an MLflow server sends lies on this machine only."""
    if not model.is_local or model.uri.startswith(storage.uri.rstrip("/") + "/"):
        return model
    files = {name: model.read(name) for name in ("weights.safetensors", "model.json")}
    copy = storage.join(f"registered/{hashlib.sha256(b''.join(files.values())).hexdigest()[:16]}")
    if not copy.exists("model.json"):
        for name, content in files.items():  # the second says that both are there
            copy.write(name, content)
    return copy


def data_place(config: Config, storage: Folder) -> tuple[Folder, bool]:
    """The data set's folder, and whether it is the generated benchmark and still has to be rendered."""
    if not config.data.generated:
        return Folder.of(config.data.root), False
    from mipnet.synthetic.generate import MANIFEST, benchmark_name

    folder = storage.join(f"data/{benchmark_name(config.scenes)}")
    return folder, not folder.exists(MANIFEST)


def data_folder(config: Config, storage: Folder, plain: bool = False) -> Folder:
    """The data set's folder; the generated benchmark is rendered if it is not there."""
    folder, missing = data_place(config, storage)
    if missing:
        from mipnet.synthetic.generate import generate

        say(f"rendering the benchmark into {folder.uri}")
        with Progress("rendering", "scene", plain) as progress:
            generate(config.scenes, folder, progress.update)
    return folder


def open_splits(config: Config, data: Folder, splits: Sequence[str]) -> dict[str, CocoFile]:
    """The annotations of splits; says once what had to be mended in them."""
    from mipnet.data.dataset_formats import open_split

    files = {split: open_split(config.data, data, split) for split in dict.fromkeys(splits)}
    for file in files.values():
        for note in file.notes:
            say_once(f"warning: {note}")
    return files


def one_image_each(files: Mapping[str, CocoFile]) -> list[str]:
    """An image of each split, to ask other nodes for."""
    return [str(file.people()[0].images.uris[0]) for file in files.values()]


def predict_all(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoFile],
    unreadable: Callable[[list[str]], object],
    plain: bool,
) -> PredictionsBySplit:
    """The poses of all splits in the boxes of ``config.data``; progress in plain lines if ``plain``."""
    from mipnet.inference.splits import predict_splits

    sources, resources = config.data.boxes, config.resources
    with Progress("evaluating", "box", plain) as progress:
        return predict_splits(model, config, data, files, sources, resources, progress.update, unreadable)


def ceilings(config: Config, files: Mapping[str, CocoFile]) -> dict[str, float]:
    """AP that a perfect prediction of the heatmaps would reach, by split."""
    from mipnet.evaluation.ceiling import ceiling

    joints = config.data.joints
    return {
        split: ceiling(
            file.annotations,
            joints.sigmas,
            config.input.size,
            config.target.kind,
            config.target.sigma,
            config.evaluation.decoder,
            config.model.stride,
            config.input.padding,
            config.data.protocol,
        )["AP"]
        for split, file in files.items()
    }


def write_results(folder: Folder, config: Config, entries: Sequence[Entry], text: str) -> None:
    """The table, the metrics, each line's poses in COCO format, and the configuration beside them."""
    folder.write("config.yaml", to_yaml(config))
    write_entries(folder, entries, text)


def write_entries(folder: Folder, entries: Sequence[Entry], text: str) -> None:
    """The table, each line's poses in COCO format, and last the metrics."""
    from mipnet.evaluation.result_rows import flat_metrics

    folder.write("table.txt", text + "\n")
    for entry in entries:
        folder.write(f"coco/{entry.name.replace('/', '-')}.json", json.dumps(entry.results))
    folder.write("metrics.json", json.dumps(flat_metrics(entries), indent=2) + "\n")  # last: all is there
