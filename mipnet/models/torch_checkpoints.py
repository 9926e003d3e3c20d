"""Read checkpoints of other projects, of PyTorch or safetensors; only tensors are loaded, no code is run."""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mipnet.errors import UserError, first_few, reason_of
from mipnet.models.foreign_checkpoints import file_kind, object_kind

AVERAGE_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
"""Keys of a moving average of the weights: what is evaluated and published, so a whole one comes first."""
STATE_DICT_KEYS = ("latest_state_dict", "state_dict", "model", "best_state_dict")
"""Keys of the weights in the checkpoints of training scripts, beside optimizer, epoch and so on."""
OTHER_KEYS = ("model_state_dict", "model_state", "net", "network", "module", "weights", "params")
_NOT_WEIGHTS = re.compile("optim|sched|scaler|hook|loop|callback|config|args|meta")
"""In keys of what has tensors too."""

# A score beside the weights is often a NumPy scalar, which contains no code. Files from before NumPy 2 have
# the old name of the function that makes it.
_NUMPY_SCALAR = np.float64().__reduce__()[0]
_SAFE_TYPES: list[Any] = [
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    (lambda *factory: {}, "collections.defaultdict"),
]

_UDP = re.compile(r"UDPHeatmap|use_udp\W+True")
UDP_NOTE = (
    "warning: trained with UDP, whose crops and decoding are not those used here: poses will be a bit off"
)
"""Of what the configuration in a checkpoint of MMPose says."""

_MEND = f"give a file with a state_dict, bare or under {', '.join(STATE_DICT_KEYS[:3])}"
_MOST_KINDS_OF_OBJECTS = 100
_DEEPEST = 5
"""Mappings inside of one another that are looked into."""


class Checkpoint(NamedTuple):
    """The weights of a file.

    Attributes:
        state: name → tensor on the CPU; floating-point tensors as float32.
        notes: what was decided, one line each.
        dataset: that it was trained on, as MMPose names it; "" if the file does not say.
    """

    state: dict[str, Tensor]
    notes: list[str]
    dataset: str


class _Opaque:
    """Stands for an object in a file: it takes its place, and nothing of the object is made or called."""

    name = ""

    def __new__(cls, *args: Any) -> _Opaque:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __call__(self, *args: Any) -> _Opaque:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return other is type(self)  # so that what an object makes is opaque, too

    __hash__ = object.__hash__


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The state_dict in a file that ``torch.save`` or safetensors wrote.

    It may be nested under one or several of the keys above, beside other things. Nothing in the file is
    executed, and objects in it other than tensors, numbers, text and their containers are not made.

    Raises:
        UserError: no such file, a broken or truncated one, another kind of file (which is named), one with
            objects in place of weights, one without a state_dict, or weights that are not finite.
    """
    path = Path(path)
    try:
        if _is_safetensors(path):
            content: Any = load_file(path)
        elif kind := file_kind(path):
            raise UserError(f"{path} is no PyTorch checkpoint but {kind}", _MEND)
        else:
            content = _load(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason_of(error)})", "check the path") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no whole safetensors file ({error})", "fetch it again") from None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    notes = [UDP_NOTE] if _UDP.search(str(meta.get("cfg", ""))) else []
    content = _innermost(content, notes)
    if made := _opaque_name(content):
        raise _objects(path, made)
    about = meta.get("dataset_meta")
    dataset = about.get("dataset_name") if isinstance(about, Mapping) else None
    return Checkpoint(_floats(path, content, notes), notes, dataset if isinstance(dataset, str) else "")


def _innermost(content: Any, notes: list[str]) -> Any:
    """The state_dict inside of a training checkpoint; appends which one was chosen of several.

    An average of the parameters alone, without the statistics of batch norm, comes last.
    """
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        keys = [*AVERAGE_KEYS, *STATE_DICT_KEYS, *OTHER_KEYS]
        if _is_of_mmengine(content):
            keys.insert(0, "state_dict")  # it exchanges the two when it saves: this is the average
        sizes = {key: size for key in dict.fromkeys(keys) if (size := _size(content.get(key)))}
        found = sorted(sizes, key=lambda key: key in AVERAGE_KEYS and sizes[key] < max(sizes.values()))
        if not found and not any(isinstance(value, Tensor) for value in content.values()):
            others = [k for k, v in content.items() if _size(v) and not _NOT_WEIGHTS.search(str(k))]
            empty = [key for key in keys if isinstance(content.get(key), Mapping)]
            found = (others if len(others) == 1 else []) or empty[:1]
        if not found:
            break
        if len(found) > 1:
            notes.append(f"weights of {found[0]!r} are used, not those of {', '.join(map(repr, found[1:]))}")
        content = content[found[0]]
    return content


def _is_of_mmengine(content: Mapping[str, Any]) -> bool:
    meta = content.get("meta")
    return "message_hub" in content or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _is_optimizer_state(value: Any) -> bool:
    return isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()


def _size(value: Any, depth: int = _DEEPEST) -> int:
    """How many floating-point tensors a mapping, and those inside of it, hold under names."""
    if isinstance(value, Mapping) and depth and not _is_optimizer_state(value):
        return sum(_size(inner, depth - 1) for name, inner in value.items() if isinstance(name, str))
    return int(isinstance(value, Tensor) and value.is_floating_point())


def _opaque_name(content: Any, depth: int = _DEEPEST) -> str:
    """The class or function of the first object that stands where weights should; "" without any."""
    if isinstance(content, Mapping) and depth:
        return next(filter(None, (_opaque_name(inner, depth - 1) for inner in content.values())), "")
    return content.name if isinstance(content, _Opaque) else ""


def _floats(path: Path, content: Any, notes: list[str]) -> dict[str, Tensor]:
    """A checked state_dict, floating-point tensors as float32."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state_dict", _MEND)
    if any(map(_is_optimizer_state, (content, *content.values()))) and not _size(content):
        raise UserError(f"{path} is an optimizer state, without weights", _MEND)
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = f"{', '.join(others[:10])} beside or instead of tensors" if others else "nothing"
        raise UserError(f"{path} holds no state_dict but {found}", _MEND)
    odd = [str(n) for n, t in content.items() if t.is_meta or t.is_quantized or t.layout != torch.strided]
    if odd:
        raise UserError(f"{path} holds tensors that are quantised, sparse or empty: {first_few(odd)}", _MEND)
    kinds = {str(t.dtype).removeprefix("torch.") for t in content.values() if t.is_floating_point()}
    if kinds - {"float32"}:
        notes.append(f"weights are stored as {' and '.join(sorted(kinds))}; they are used as float32")
    state = {
        str(name): tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in content.items()
    }
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{path} holds weights that are not finite: {', '.join(broken[:10])}", _MEND)
    return state


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as one: the length of a header of JSON, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length < path.stat().st_size


def _load(path: Path) -> Any:
    """The content of a file of ``torch.save``, with opaque things in place of objects."""
    opaque: dict[str, type[_Opaque]] = {}
    while True:
        safe = [*_SAFE_TYPES, *((kind, name) for name, kind in opaque.items())]
        try:
            with torch.serialization.safe_globals(safe), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # broken bytes make the unpickler raise almost anything
            complaint = str(error)
            found = re.search(r"Unsupported global: GLOBAL (\S+)", complaint)
            name = found[1] if found else ""
            name = name if "." in name or not name else f"builtins.{name}"
            if name and name not in opaque and len(opaque) < _MOST_KINDS_OF_OBJECTS:
                opaque[name] = type("Opaque", (_Opaque,), {"name": name})
                continue
            if code := next(iter(opaque), "") or _code(path, complaint):
                raise _objects(path, code) from None
            said = " ".join(complaint.rpartition("error:")[2].split())
            reason = re.split(r"\. | Check the ", said)[0][:100] or type(error).__name__
            what = f"{path} is no PyTorch checkpoint, or is cut off ({reason})"
            raise UserError(what, "fetch it again") from None


def _objects(path: Path, name: str) -> UserError:
    """The error about a file with an object in place of weights."""
    code = name.removeprefix("builtins.")
    kind = object_kind(name)
    what = f"{path} holds code ({code}) and was refused, as that would run on loading"
    if kind:
        what = f"{path} is {kind} as pickled objects ({code}), which would run code on loading"
    return UserError(what, "save the state_dict alone where you trust the file")


def _code(path: Path, complaint: str) -> str:
    """The first function or class that a refused file would call; "" if the file is only broken."""
    if found := re.search(r"GLOBAL (\S+)", complaint):  # torch's own formats
        return found[1]
    names: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, value, _ in pickletools.genops(file):  # reads, never calls
                if opcode.name == "GLOBAL":
                    return str(value).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(names[-2:])
                names += [value] if isinstance(value, str) else []
    except Exception:  # no pickle at all, or one that ends early
        return ""
    return ""
