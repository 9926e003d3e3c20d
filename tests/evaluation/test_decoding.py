from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.data.geometry import crop_affine, mirrored_affine, transform_points
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps, flip_back
from mipnet.models.targets import heatmap_targets

METHODS = ("argmax", "quarter", "dark", "parabola")
WIDTH, HEIGHT = 36, 48  # cells, at stride 4
steady = settings(deadline=None, derandomize=True)
inner = st.tuples(st.floats(8, WIDTH - 9), st.floats(8, HEIGHT - 9))


def decoded(cells: list[tuple[float, float]], kind: str, method: str, sigma: float) -> np.ndarray:
    """Joints at heatmap points, made into targets and decoded: (J, 2) heatmap px."""
    joints = torch.tensor([(4 * x, 4 * y, 1) for x, y in cells], dtype=torch.float64)[None, None]
    targets, weights = heatmap_targets(joints, (4 * WIDTH, 4 * HEIGHT), (WIDTH, HEIGHT), sigma, kind)
    assert weights.min() == 1
    points, scores = decode_heatmaps(targets, method)
    assert scores.shape == (1, 1, len(cells))
    return points[0, 0].numpy()


@steady
@given(
    st.lists(inner, min_size=1, max_size=8),
    st.sampled_from((1.25, 2.0, 3.0)),
    st.sampled_from(
        [("rounded", method, 0.51) for method in METHODS]
        + [("subpixel", "argmax", 0.51), ("subpixel", "quarter", 0.26)]
        + [("subpixel", "dark", 0.1), ("subpixel", "parabola", 0.005)]
    ),
)
def test_decoding_a_target_gives_its_joint(cells, sigma, case) -> None:
    kind, method, allowed = case
    assert np.abs(decoded(cells, kind, method, sigma) - cells).max() <= allowed


@pytest.mark.parametrize("kind", ["rounded", "subpixel"])
@pytest.mark.parametrize("method", METHODS)
def test_decoding_has_no_bias(kind, method) -> None:
    offsets = (np.arange(20) + 0.5) / 20
    cells = [(10 + x, 20 + y) for x in offsets for y in offsets]
    error = decoded(cells, kind, method, 2.0) - cells
    assert np.abs(error.mean(axis=0)).max() < 0.005


def test_first_of_equal_maxima_and_maps_without_a_peak() -> None:
    maps = torch.full((4, 6, 5), -1.0)
    maps[0, 2, 3] = maps[0, 4, 1] = 0.7  # a tie: the first in row-major order
    maps[1, 2, 2] = 0  # maximum 0
    maps[2, 3, 3] = -0.5  # maximum below 0
    maps[3, 5, 4] = 0.1
    for method in METHODS:
        cells, scores = decode_heatmaps(maps, method)
        assert cells[1:3].tolist() == [[0, 0], [0, 0]]
        assert scores.tolist() == pytest.approx([0.7, 0, -0.5, 0.1])
        assert cells[3].tolist() == [4, 5]
    assert decode_heatmaps(maps, "argmax")[0][0].tolist() == [3, 2]


def test_quarter_shift_by_hand_and_its_border() -> None:
    maps = torch.zeros(6, 7, 8)
    for index, (x, y) in enumerate([(2, 2), (5, 4), (6, 4), (1, 4), (4, 1), (4, 5)]):
        maps[index, y, x] = 1.0
        if index < 5:
            maps[index, y, x + 1] = 0.5
        maps[index, y - 1, x] = 0.5
    cells, _ = decode_heatmaps(maps, "quarter")
    # 1 < x < 7 and 1 < y < 6, or no shift on either axis
    assert cells.tolist() == [[2.25, 1.75], [5.25, 3.75], [6.25, 3.75], [1, 4], [4, 1], [4, 4.75]]


def test_parabola_works_at_one_cell_from_the_border_and_stays_in_the_cell() -> None:
    x = torch.arange(8.0)
    row = torch.exp(-((x - 1.3) ** 2) / 2)
    maps = torch.stack([row.expand(5, 8), torch.eye(5, 8)])  # first: constant along y
    cells, _ = decode_heatmaps(maps, "parabola")
    assert cells[0].tolist() == pytest.approx([1.3, 0], abs=1e-4)
    assert (cells[1] == 0).all()
    plateau = torch.zeros(1, 5, 8)
    plateau[0, 2, 3:6] = 1
    cells, _ = decode_heatmaps(plateau, "parabola")
    assert cells[0].tolist() == [3.5, 2]


def test_dark_skips_a_singular_hessian() -> None:
    cells, _ = decode_heatmaps(torch.ones(1, 30, 30), "dark")
    assert cells.tolist() == [[0, 0]]
    ridge = torch.ones(1, 40, 1) * torch.exp(-((torch.arange(40.0) - 20) ** 2) / 8)
    ridge[0, 20, 20] += 1e-6
    assert torch.isfinite(decode_heatmaps(ridge, "dark")[0]).all()
    spike = torch.zeros(1, 40, 40)
    spike[0, 20, 20] = 1
    spike[0, 20, 21] = 0.9
    cells, _ = decode_heatmaps(spike, "dark")
    assert cells[0].tolist() == pytest.approx([20 + 0.9 / 1.9, 20], abs=0.06)


@pytest.mark.parametrize("method", METHODS)
def test_any_leading_shape_and_any_float(method) -> None:
    maps = torch.rand(2, 3, 4, 12, 10, generator=torch.Generator().manual_seed(0))
    cells, scores = decode_heatmaps(maps, method)
    assert cells.shape == (2, 3, 4, 2)
    assert scores.shape == (2, 3, 4)
    assert cells.dtype == scores.dtype == torch.float32
    alone, score = decode_heatmaps(maps[1, 2, 3:], method)
    assert torch.equal(alone[0], cells[1, 2, 3])
    assert score[0] == scores[1, 2, 3] == maps[1, 2, 3].max()
    half, _ = decode_heatmaps(maps.half(), method)
    expected, _ = decode_heatmaps(maps.half().float(), method)
    assert torch.equal(half, expected)


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="udp"):
        decode_heatmaps(torch.zeros(1, 4, 4), "udp")


def test_cells_to_image_undoes_the_crop() -> None:
    rng = np.random.default_rng(0)
    center, size = rng.uniform(50, 300, (3, 2)), rng.uniform(50, 300, (3, 1)) * [0.75, 1]
    points = rng.uniform(0, 400, (3, 2, 17, 2))
    cells = np.stack(
        [transform_points(crop_affine(center[p], size[p], 0.0, (48, 64)), points[p]) for p in range(3)]
    )
    back = cells_to_image(*(torch.from_numpy(a) for a in (cells, center, size)), (48, 64))
    np.testing.assert_allclose(back.numpy(), points)
    one = cells_to_image(*(torch.from_numpy(a) for a in (cells[:, 0], center, size)), (48, 64))
    np.testing.assert_allclose(one.numpy(), points[:, 0])


def test_flip_back_by_hand() -> None:
    maps = torch.arange(12.0).reshape(1, 3, 1, 4)
    flipped = flip_back(maps, (0, 2, 1))
    assert flipped[0, :, 0].tolist() == [[3, 3, 2, 1], [11, 11, 10, 9], [7, 7, 6, 5]]


def test_flip_back_of_a_mirrored_crop_lands_on_the_joint() -> None:
    # A joint of an image 201 px wide, seen by a crop and by the same crop of the mirrored image.
    center, size, joint, width = np.array([90.0, 80]), np.array([96.0, 128]), np.array([77.3, 61.9]), 201
    peaks = []
    for mirrored in (False, True):
        middle = np.array([width - 1 - center[0], center[1]]) if mirrored else center
        affine = crop_affine(middle, size, 0.0, (4 * WIDTH, 4 * HEIGHT))
        x, y = transform_points(mirrored_affine(affine, width) if mirrored else affine, joint)
        maps, _ = heatmap_targets(
            torch.tensor([[[[x, y, 1], [1, 1, 0]]]]),
            (4 * WIDTH, 4 * HEIGHT),
            (WIDTH, HEIGHT),
            2.0,
            "subpixel",
        )
        # left and right: the mirrored network answers with the other joint
        maps = flip_back(maps.flip(2), (1, 0)) if mirrored else maps
        peaks.append(decode_heatmaps(maps, "parabola")[0][0, 0, 0])
    assert peaks[0].tolist() == pytest.approx(peaks[1].tolist(), abs=0.01)
    assert not math.isclose(peaks[0][0].item(), WIDTH / 2, abs_tol=2)
