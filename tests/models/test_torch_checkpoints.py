"""Checkpoint files: unwrapped, never executed, and refused in one line when they cannot be used."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mipnet.errors import UserError
from mipnet.models.torch_checkpoints import STATE_DICT_KEYS, read_checkpoint

State = dict[str, Tensor]


def state(value: float = 1.0) -> State:
    return {"a.weight": torch.full((2, 3), value), "a.num_batches_tracked": torch.tensor(7)}


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(a[n].dtype == t.dtype and torch.equal(a[n], t) for n, t in b.items())


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        OrderedDict,
        *(lambda s, key=key: {key: s, "epoch": 3} for key in STATE_DICT_KEYS),
        lambda s: {"latest_state_dict": s, "state_dict": state(2), "model": state(3)},
        lambda s: {"model": "pose_hrnet", "state_dict": s, "best_state_dict": state(2)},
        lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        lambda s: {"state_dict": s, "perf": np.float64(0.7), "epoch": np.int64(3), "best": np.bool_(True)},
        lambda s: {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in s.items()},
    ],
)
def test_state_dicts_are_found_where_training_scripts_put_them(
    wrap: Callable[[State], Any], new_format: bool, tmp_path: Path
) -> None:
    torch.save(wrap(state()), tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    found = read_checkpoint(tmp_path / "x.pth").state
    assert same(found, state())
    assert not any(tensor.requires_grad for tensor in found.values())


def test_a_score_from_before_numpy_2(tmp_path: Path) -> None:
    """The same number under the name that its function had then."""
    content = io.BytesIO()
    torch.save(
        {"state_dict": state(), "perf": np.float64(0.7)}, content, _use_new_zipfile_serialization=False
    )
    old = content.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != content.getvalue()
    (tmp_path / "x.pth").write_bytes(old)
    assert same(read_checkpoint(tmp_path / "x.pth").state, state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=dtype)}, tmp_path / "x.pth")
    assert same(read_checkpoint(tmp_path / "x.pth").state, {"a": torch.tensor([1.5, -2.0])})


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def torch_bytes(content: Any, new_format: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    return file.getvalue()


WHOLE, OLD = torch_bytes(state()), torch_bytes(state(), new_format=False)
BROKEN = {
    "empty": (b"", "is cut off"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "is cut off"),
    "last byte missing": (WHOLE[:-1], "is cut off"),
    "a list of members that is broken": (WHOLE.replace(b"PK\x01\x02", b"PK\x01\xff"), "is cut off"),
    "truncated old format": (OLD[: len(OLD) // 2], "is cut off"),
    "last byte of the old format missing": (OLD[:-1], "is cut off"),
    "a web page": (b"<html><body>sign in</body></html>", "no PyTorch checkpoint but a web page"),
    "code": (torch_bytes({"state_dict": Code()}), "holds code (getattr) and was refused"),
    "code beside weights": (torch_bytes({**state(), "hook": Code()}), "holds code (getattr)"),
    "code in the old format": (torch_bytes(Code(), new_format=False), "holds code (getattr)"),
    "code in a plain pickle": (pickle.dumps({"model": Code()}), f"holds code ({Path.__module__}.Path.touch)"),
    "code in an old plain pickle": (pickle.dumps(Code(), protocol=0), "holds code (getattr)"),
    "a whole module": (torch_bytes(torch.nn.Linear(2, 2)), "a whole network as pickled objects (torch.nn."),
    "a list": (torch_bytes([torch.zeros(2)]), "holds a list, not a state_dict"),
    "a tensor": (torch_bytes(torch.zeros(2)), "holds a Tensor, not a state_dict"),
    "nothing": (torch_bytes({"state_dict": {}}), "holds no state_dict but nothing"),
    "only a wrapper": (torch_bytes({"epoch": 3, "optimizer": {}}), "no state_dict but epoch, optimizer"),
    "something else": (torch_bytes({**state(), "epoch": 3}), "no state_dict but epoch beside"),
    "nan": (torch_bytes({**state(), "b": torch.tensor([1, float("nan")])}), "not finite: b"),
    "inf": (torch_bytes(state(float("inf"))), "not finite: a.weight"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = BROKEN[kind]
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read_checkpoint(file)
    said = str(caught.value)
    assert message in said
    assert str(file) in said
    assert len(said.splitlines()) == 1
    assert len(said) < 300 + len(str(file))
    assert not (tmp_path / "executed").exists()


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UserError, match="Is a directory"):
        read_checkpoint(tmp_path)
