from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mipnet.models.targets import heatmap_targets


def joints_at(*joints: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(joints)[None, None]


def test_rounded_by_hand() -> None:
    # stride 4: (21, 33) -> (5.25, 8.25) -> cell (5, 8); (22, 34) -> (5.5, 8.5) -> cell (6, 9)
    targets, weights = heatmap_targets(
        joints_at((21, 33, 2), (22, 34, 1)), (64, 96), (16, 24), 1.0, "rounded"
    )
    assert targets.shape == (1, 1, 2, 24, 16)
    assert targets.dtype == weights.dtype == torch.float32
    assert weights.tolist() == [[[1.0, 1.0]]]
    first, second = targets[0, 0]
    assert first[8, 5] == 1
    assert second[9, 6] == 1
    assert first[8, 7].item() == pytest.approx(math.exp(-2))
    assert first[7, 4].item() == pytest.approx(math.exp(-1))
    assert first[8, 8].item() == pytest.approx(math.exp(-4.5))  # the window's last cell
    assert first[8, 9] == 0  # 4 > 3 sigma: outside the (6 sigma + 1) window
    assert int((first > 0).sum()) == 49


def test_subpixel_by_hand() -> None:
    targets, weights = heatmap_targets(joints_at((21, 33, 2)), (64, 96), (16, 24), 1.5, "subpixel")
    assert weights.item() == 1
    y, x = np.mgrid[:24, :16]
    expected = np.exp(-((x - 5.25) ** 2 + (y - 8.25) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(targets[0, 0, 0].numpy(), expected, atol=1e-6)


def test_each_axis_has_its_own_stride() -> None:
    targets, _ = heatmap_targets(joints_at((32, 32, 1)), (64, 96), (16, 48), 2.0, "rounded")
    assert divmod(int(targets[0, 0, 0].argmax()), 16) == (16, 8)


@pytest.mark.parametrize("kind", ["rounded", "subpixel"])
def test_weight_is_0_for_hidden_joints_and_windows_outside(kind) -> None:
    inside, hidden, far, edge, lost = (30, 30, 1), (30, 30, 0), (200, 30, 2), (64, 96, 2), (math.nan, 1, 0)
    targets, weights = heatmap_targets(
        joints_at(inside, hidden, far, edge, lost), (64, 96), (16, 24), 2.0, kind
    )
    assert weights[0, 0].tolist() == [1, 0, 0, 1, 0]
    assert (targets.amax(dim=(-1, -2))[0, 0] > 0).tolist() == [True, False, False, True, False]
    assert torch.isfinite(targets).all()
    # a window that only just touches the map, and one that only just does not
    _, weights = heatmap_targets(joints_at((-24, 4, 2), (-28, 4, 2)), (64, 96), (16, 24), 2.0, kind)
    assert weights[0, 0].tolist() == [1, 0]


def test_every_person_has_its_own_maps() -> None:
    rng = np.random.default_rng(0)
    joints = torch.from_numpy(np.concatenate([rng.uniform(0, 64, (3, 2, 5, 2)), np.ones((3, 2, 5, 1))], -1))
    for kind in ("rounded", "subpixel"):
        together, weights = heatmap_targets(joints, (64, 64), (16, 16), 2.0, kind)
        assert together.shape == (3, 2, 5, 16, 16)
        assert weights.shape == (3, 2, 5)
        alone, _ = heatmap_targets(joints[2:, 1:, 4:], (64, 64), (16, 16), 2.0, kind)
        torch.testing.assert_close(together[2, 1, 4], alone[0, 0, 0], rtol=0, atol=0)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="gauss"):
        heatmap_targets(joints_at((1, 1, 1)), (64, 64), (16, 16), 2.0, "gauss")
