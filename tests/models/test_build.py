from __future__ import annotations

import pytest
import torch
from torch import nn

from mipnet.errors import ConfigError
from mipnet.models.build import build_model
from mipnet.models.costs import count_parameters, multiply_adds


def test_the_tiny_network_is_tiny() -> None:
    model = build_model("hrnet", width=32, num_modules=(1, 1), blocks=1, mimb_stages=(2, 3))
    assert count_parameters(model) == 1_145_905
    assert [m.excite[2].out_features for m in model.mimbs["2"]] == [32, 64, 128]
    assert [m.excite[2].out_features for m in model.mimbs["3"]] == [32]
    assert model.eval()(torch.zeros(1, 3, 96, 64)).shape == (1, 2, 17, 24, 16)
    assert multiply_adds(model, (96, 64)).total < 0.25e9


@pytest.mark.parametrize(
    ("modules", "mimb_stages"), [((1, 4, 3), 4), ((1, 1), 3), ((2,), 2), ((1, 1, 1, 1), 5)]
)
def test_hrnet_of_any_number_of_stages(modules: tuple[int, ...], mimb_stages: int) -> None:
    everywhere = range(1, mimb_stages + 1)
    model = build_model(
        "hrnet", 4, 2, everywhere, width=4, num_modules=modules, blocks=1, stem_channels=8
    ).eval()
    branches = [len(model.mimbs[str(p)]) for p in everywhere]
    assert branches == [*range(2, mimb_stages + 1), 1]
    assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 4, 16, 24)


@pytest.mark.parametrize(("depth", "deconvs"), [(18, 1), (18, 3), (34, 2), (50, 3)])
def test_simplebaseline_of_any_depth(depth: int, deconvs: int) -> None:
    options = {"depth": depth, "deconvs": deconvs, "deconv_channels": 8}
    model = build_model("simplebaseline", 4, 2, (1, 2, 3, 4), **options).eval()
    cells = 2 * 2**deconvs
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 4, cells, cells)


@pytest.mark.parametrize("backbone", ["hrnet", "simplebaseline"])
def test_first_heatmaps_are_nearly_zero(backbone: str) -> None:
    """Fresh weights keep the features' size through the network, and the head makes little of them."""
    torch.manual_seed(0)
    options = {"num_modules": (1, 1), "blocks": 1} if backbone == "hrnet" else {"depth": 18}
    model = build_model(backbone, 4, mimb_stages=(3,), **options).train()
    heatmaps = model(torch.randn(4, 3, 64, 64))
    assert 1e-5 < heatmaps.abs().max() < 0.1
    convolutions = [m for m in model.backbone.stages.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.std() > 0.005 for m in convolutions)


def test_the_architecture_rebuilds_the_model() -> None:
    model = build_model("hrnet", 14, 3, (3, 1), 2, width=8, num_modules=(1, 1), blocks=1)
    assert model.architecture is not None
    again = build_model(**model.architecture)
    assert again.architecture == model.architecture
    assert [(n, t.shape) for n, t in again.state_dict().items()] == [
        (n, t.shape) for n, t in model.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "hrnett"}, "did you mean 'hrnet'"),
        ({"backbone": "hrnet", "depth": 50}, "depth"),
        ({"backbone": "hrnet", "num_modules": ()}, "modules"),
        ({"backbone": "hrnet", "width": 0}, "width"),
        ({"backbone": "hrnet", "mimb_stages": (5,)}, "no place 5"),
        ({"backbone": "hrnet", "width": 2, "reduction": 4}, "reduction"),
        ({"backbone": "simplebaseline", "depth": 42}, "depth must be one of 18, 34, 50, 101, 152"),
        ({"backbone": "simplebaseline", "deconvs": 0}, "deconvs"),
        ({"backbone": "simplebaseline", "mimb_stages": ()}, "without one"),
    ],
)
def test_impossible_arguments(arguments: dict, words: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=words):
        build_model(**arguments)
