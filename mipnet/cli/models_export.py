"""``mipnet models export``: weights under the names of the reference code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.cli.shared_options import MODEL_HELP, STORAGE_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.storage import readable_storage

ABOUT = "Write a model's weights as a state_dict of the reference code."


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet models export``."""

    model: str = option("", MODEL_HELP, positional=True)
    out: str = option("", "file to write with torch.save, e.g. mipnet.pth")
    storage: str = option("", STORAGE_HELP)


def run(options: Options, call: Call) -> int:
    """Write a model's weights as the reference code reads them."""
    if not options.model or not options.out:
        raise UserError("which model, and where to", "mipnet models export MODEL --out FILE")

    from mipnet.models.reference_checkpoints import export_checkpoint
    from mipnet.models.weights import read_description
    from mipnet.registry.resolve import resolve_model

    storage = readable_storage(options.storage)
    with TemporaryDirectory() as scratch:
        folder = resolve_model(options.model, storage).download(Path(scratch))
        names = export_checkpoint(folder, options.out)
        instances = read_description(folder)[0]["instances"]
    say(f"{len(names)} tensors: {options.out}")
    if instances > 2:
        say(f"its embeddings take a one-hot λ of length {instances}; the reference code feeds two numbers")
    return 0
