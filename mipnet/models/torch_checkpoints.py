"""Read PyTorch checkpoints of other projects; only tensors are loaded, no code is run."""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mipnet.errors import UserError

STATE_DICT_KEYS = ("latest_state_dict", "state_dict", "model", "best_state_dict")
"""Keys of the weights in the checkpoints of training scripts, beside optimizer, epoch and so on."""

# A score beside the weights is often a NumPy scalar, which contains no code. Files from before NumPy 2 have
# the old name of the function that makes it.
_NUMPY_SCALAR = np.float64().__reduce__()[0]
_SAFE_NUMPY_TYPES = [
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state_dict in a file that ``torch.save`` wrote, on the CPU.

    It may be nested under one or several of ``STATE_DICT_KEYS``. Nothing in the file is executed.

    Returns:
        name → tensor; floating-point tensors as float32.

    Raises:
        UserError: no such file, a broken or truncated one, one with code in it, one without a state_dict, or
            weights that are not finite.
    """
    content = _load(Path(path))
    while isinstance(content, Mapping):
        inner = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state_dict", _MEND)
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = f"{', '.join(others[:10])} beside or instead of tensors" if others else "nothing"
        raise UserError(f"{path} holds no state_dict but {found}", _MEND)
    state = {
        str(name): tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in content.items()
    }
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{path} holds weights that are not finite: {', '.join(broken[:10])}", _MEND)
    return state


_MEND = f"give a file with a state_dict, bare or under {', '.join(STATE_DICT_KEYS[:3])}"


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})", "check the path") from None
    except Exception as error:  # broken bytes make the unpickler raise almost anything
        if code := _code(path, str(error)):
            what = f"{path} holds code ({code}) and was refused, as that would run on loading"
            raise UserError(what, "save the state_dict alone where you trust the file") from None
        said = " ".join(str(error).rpartition("error:")[2].split())
        reason = re.split(r"\. | Check the ", said)[0][:100] or type(error).__name__
        what = f"{path} is no PyTorch checkpoint, or is cut off ({reason})"
        raise UserError(what, "fetch it again") from None


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
