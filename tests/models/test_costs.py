from __future__ import annotations

import pytest
import torch

from mipnet.models.build import build_model
from mipnet.models.costs import count_parameters, module_costs, multiply_adds

PLAIN = {"instances": 1, "mimb_stages": ()}


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"backbone": "hrnet", **PLAIN}, 28_536_113),
        ({"backbone": "hrnet"}, 28_603_313),
        ({"backbone": "hrnet", "width": 48, **PLAIN}, 63_595_745),
        ({"backbone": "hrnet", "width": 48}, 63_746_081),
        ({"backbone": "simplebaseline", **PLAIN}, 33_999_697),
        ({"backbone": "simplebaseline"}, 34_986_193),
        ({"backbone": "simplebaseline", "depth": 101}, 53_978_321),
    ],
)
def test_published_parameter_counts(arguments: dict, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_model(**arguments)) == parameters


@pytest.mark.parametrize(
    ("arguments", "size", "giga", "share"),
    [
        ({"backbone": "hrnet"}, (256, 192), 7.65, 0.62),
        ({"backbone": "hrnet", "width": 48}, (384, 288), 35.3, 0.584),
        ({"backbone": "simplebaseline"}, (256, 192), 5.43, 0.327),
        ({"backbone": "simplebaseline", "depth": 101}, (256, 192), 9.06, 0.196),
    ],
)
def test_published_multiply_adds(arguments: dict, size: tuple[int, int], giga: float, share: float) -> None:
    with torch.device("meta"):
        cost = multiply_adds(build_model(**arguments), size)
    assert cost.single / 1e9 == pytest.approx(giga, rel=2e-3)
    assert cost.shared_fraction == pytest.approx(share, abs=1e-3)


def test_multiply_adds_for_two_instances_as_published() -> None:
    with torch.device("meta"):
        cost = multiply_adds(build_model("hrnet", width=48), (384, 288))
    assert cost.single / 1024**3 == pytest.approx(32.9, abs=0.05)
    assert cost.total / 1024**3 == pytest.approx(46.5, abs=0.1)


def test_a_plain_backbone_shares_everything() -> None:
    with torch.device("meta"):
        cost = multiply_adds(build_model("simplebaseline", depth=18, **PLAIN), (64, 64))
    assert cost.per_instance == 0
    assert cost.shared_fraction == 1


def test_multiply_adds_leaves_the_model_as_it_was() -> None:
    model = build_model("hrnet", num_modules=(1, 1), width=8, blocks=1, mimb_stages=(3,)).train()
    multiply_adds(model, (64, 64))
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone": "hrnet"},
        {"backbone": "hrnet", "mimb_stages": (1, 2, 3, 4), "instances": 3},
        {"backbone": "hrnet", **PLAIN},
        {"backbone": "simplebaseline", "mimb_stages": (2,)},
        {"backbone": "simplebaseline", "depth": 18, **PLAIN},
    ],
)
def test_the_parts_are_the_whole(arguments: dict) -> None:
    with torch.device("meta"):
        model = build_model(**arguments)
    parts, cost = module_costs(model, (256, 192)), multiply_adds(model, (256, 192))
    assert sum(part.parameters for part in parts) == count_parameters(model)
    assert sum(part.multiply_adds for part in parts) == cost.single
    assert sum(part.multiply_adds for part in parts if part.per_instance) == cost.per_instance
    assert [part.mimb_stage for part in parts if part.mimb_stage] == list(model.mimb_stages)
    first = next((i for i, part in enumerate(parts) if part.mimb_stage), len(parts))
    assert [part.per_instance for part in parts] == [i >= first for i in range(len(parts))]
    assert parts[-1].outputs == ((17, 64, 48),)


def test_parts_by_hand() -> None:
    with torch.device("meta"):
        model = build_model("hrnet", 5, 2, (2,), width=8, num_modules=(1,), blocks=1, stem_channels=4)
    parts = module_costs(model, (64, 32))
    assert [(p.name, p.mimb_stage, p.outputs) for p in parts] == [
        ("stem", 0, ((4, 16, 8),)),
        ("stage 1", 0, ((8, 16, 8), (16, 8, 4))),
        ("stage 2", 0, ((8, 16, 8),)),
        ("MIMBs", 2, ((8, 16, 8),)),
        ("head", 0, ((5, 16, 8),)),
    ]
    stem, mimbs, head = parts[0], parts[3], parts[4]
    # 3 -> 4 channels at half the resolution, 4 -> 4 at a quarter, 9 taps each
    assert stem.multiply_adds == 9 * (3 * 4 * 32 * 16 + 4 * 4 * 16 * 8)
    assert stem.parameters == 9 * (12 + 16) + 4 * 4
    # excite 8 -> 2 -> 8 once for both λ, embed 2 -> 2 -> 8 for each
    assert mimbs.multiply_adds == 32 // 2 + (4 + 16)
    assert mimbs.parameters == 32 + (4 + 2) + 4 + (16 + 8)
    assert (head.multiply_adds, head.parameters) == (8 * 5 * 16 * 8, 8 * 5 + 5)
