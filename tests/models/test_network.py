from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mipnet.models.backbone import Backbone, InsertionPoint
from mipnet.models.build import build_model
from mipnet.models.hrnet import HRNet
from mipnet.models.network import MIPNet
from mipnet.models.simplebaseline import SimpleBaseline

TINY = {"width": 8, "num_modules": (1, 1), "blocks": 1, "stem_channels": 8, "stage1_blocks": 1}


def _tiny(instances: int = 2, mimb_stages: tuple[int, ...] = (2, 3)) -> MIPNet:
    torch.manual_seed(0)
    return build_model("hrnet", 5, instances, mimb_stages, **TINY)


def _images(count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 32, 64, dtype=dtype)


def _over_repeated_images(model: MIPNet, images: Tensor) -> Tensor:
    """The definition: the whole network once over the images repeated N times, nothing shared."""
    features = images.repeat_interleave(model.instances, 0)
    rows = torch.arange(model.instances).repeat(len(images))
    for index, stage in enumerate(model.backbone.stages):
        features = stage(features)
        for number in model.mimb_stages:
            if model.backbone.insertion_points[number].after_stage == index:
                mimbs = model.mimbs[str(number)]
                if isinstance(features, Tensor):
                    features = mimbs[0](features, rows)
                else:
                    features = [m(x, rows) for m, x in zip(mimbs, features, strict=True)]
    return model.backbone.head(features).unflatten(0, (len(images), model.instances))


class DownStage(nn.Module):
    """Halves the resolution and hands on every finer map as a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)

    def forward(self, x: Tensor | list[Tensor]) -> list[Tensor]:
        branches = [x] if isinstance(x, Tensor) else x
        return [*branches, self.conv(branches[-1]).relu()]


class UpStage(nn.Module):
    """Doubles the resolution of the coarsest map and adds it to the next finer one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, branches: list[Tensor]) -> Tensor | list[Tensor]:
        *finer, target, coarse = branches
        merged = target + nn.functional.interpolate(self.conv(coarse), scale_factor=2)
        return [*finer, merged] if finer else merged


class Hourglass(Backbone):
    """A network that this package does not know."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.stages = nn.ModuleList([stem, DownStage(4, 8), DownStage(8, 12), UpStage(12, 8), UpStage(8, 4)])
        self.insertion_points = {1: InsertionPoint(2, (4, 8, 12)), 2: InsertionPoint(4, (4,))}
        self.head = nn.Conv2d(4, 6, 1)


@pytest.mark.parametrize("mimb_stages", [(1,), (2,), (1, 2)])
def test_any_network_can_be_converted(mimb_stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = MIPNet(Hourglass(), instances=3, mimb_stages=mimb_stages, reduction=1).eval()
    heatmaps = model(_images(2))
    assert heatmaps.shape == (2, 3, 6, 32, 64)
    assert (heatmaps[:, 0] - heatmaps[:, 1]).abs().max() > 1e-4
    torch.testing.assert_close(heatmaps, _over_repeated_images(model, _images(2)))
    assert len(model.mimbs["1"]) == 3 if 1 in mimb_stages else "1" not in model.mimbs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("instances", "mimb_stages"), [(2, (3,)), (3, (1, 3)), (2, (1, 2, 3)), (1, (2,))])
def test_the_same_as_the_whole_network_over_repeated_images(
    training: bool, instances: int, mimb_stages: tuple[int, ...]
) -> None:
    model = _tiny(instances, mimb_stages).double().train(training)
    images = _images(dtype=torch.float64)
    torch.testing.assert_close(model(images), _over_repeated_images(model, images), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("instances", [2, 3])
def test_gradients_equal_those_over_repeated_images(instances: int) -> None:
    model = _tiny(instances).double().train()
    # The head starts near zero; with ordinary weights every gradient is of ordinary size.
    nn.init.normal_(model.backbone.head.weight)
    images = _images(dtype=torch.float64)
    torch.manual_seed(2)
    targets = torch.rand_like(model(images))

    def gradients(heatmaps: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        (heatmaps - targets).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    ours, defined = gradients(model(images)), gradients(_over_repeated_images(model, images))
    assert all(g.abs().max() > 0 for g in defined.values())
    scale = max(g.abs().max().item() for g in defined.values())
    for name, gradient in defined.items():
        # The bias in front of a batch norm has no gradient but rounding, hence the floor.
        largest = max(gradient.abs().max().item(), 1e-3 * scale)
        assert (ours[name] - gradient).abs().max().item() <= 1e-9 * largest, name


def test_what_is_in_front_of_the_first_mimb_runs_once_per_image() -> None:
    model = _tiny(3, (2, 3)).eval()
    rows: list[int] = []
    for stage in model.backbone.stages:
        first = next(m for m in stage.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    model(_images(2))
    assert rows == [2, 2, 2, 6]


@pytest.mark.parametrize("kind", ["hrnet", "simplebaseline", "toy"])
def test_one_instance_without_places_is_the_backbone(kind: str) -> None:
    torch.manual_seed(0)
    backbone = {
        "hrnet": lambda: HRNet(5, **TINY),
        "simplebaseline": lambda: SimpleBaseline(5, depth=18, deconv_channels=8),
        "toy": Hourglass,
    }[kind]()
    model = MIPNet(backbone, instances=1, mimb_stages=()).eval()
    assert list(model.state_dict()) == [f"backbone.{name}" for name in backbone.state_dict()]
    images = _images()
    with torch.no_grad():
        heatmaps = model(images)
        assert torch.equal(heatmaps[:, 0], backbone(images))
    assert heatmaps.shape[:3] == (3, 1, 6 if kind == "toy" else 5)
    model.train()(images, torch.tensor([0]))  # one instance is all instances


def test_a_subset_of_instances_in_eval_mode() -> None:
    model = _tiny(3).eval()
    all_of_them = model(_images())
    some = model(_images(), torch.tensor([2, 0]))
    assert some.shape == (3, 2, 5, 8, 16)
    torch.testing.assert_close(some, all_of_them[:, [2, 0]])


def test_training_refuses_a_subset() -> None:
    model = _tiny(3).train()
    for asked in ([0], [0, 1], [0, 0, 1, 2]):
        with pytest.raises(ValueError, match="batch norm"):
            model(_images(), torch.tensor(asked))
    assert model(_images(), torch.tensor([2, 0, 1])).shape[1] == 3


def test_training_on_all_instances_tells_them_apart() -> None:
    """After a few steps towards two fixed targets the loss is below what any single answer could reach."""
    model = _tiny(2).train()
    images = _images(4)
    torch.manual_seed(3)
    targets = torch.rand(1, 2, 5, 1, 1).expand(4, 2, 5, 8, 16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = (model(images) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    same_answer = (targets - targets.mean(1, keepdim=True)).square().mean()
    assert loss < 0.5 * same_answer


def test_channels_last_survives_the_fold() -> None:
    model = _tiny(2).eval()
    expected = model(_images())
    model = model.to(memory_format=torch.channels_last)
    inputs: list[Tensor] = []
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, args, _output: inputs.append(args[0]))
    heatmaps = model(_images().to(memory_format=torch.channels_last))
    assert len(inputs) > 10
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in inputs)
    torch.testing.assert_close(heatmaps, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.no_cover  # torch.export takes minutes where a tracer watches it
def test_export_with_any_batch_size() -> None:
    model = _tiny(2).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (_images(2),), dynamic_shapes={"images": {0: batch}}).module()
    torch.testing.assert_close(exported(_images(5)), model(_images(5)), rtol=1e-4, atol=1e-6)


def test_impossible_networks() -> None:
    with pytest.raises(ValueError, match="without one"):
        MIPNet(Hourglass(), 2, mimb_stages=())
    with pytest.raises(ValueError, match="at least 1"):
        MIPNet(Hourglass(), 0, mimb_stages=(1,))
    with pytest.raises(ValueError, match="no place 3"):
        MIPNet(Hourglass(), 2, mimb_stages=(1, 3))


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        (torch.tensor([0, 2]), "instance 2 is out of range"),
        (torch.tensor([-1]), "instance -1"),
        (torch.tensor([0.0]), "int64"),
        (torch.tensor([[0]]), "vector"),
        (torch.tensor([], dtype=torch.int64), "non-empty"),
    ],
)
def test_impossible_instances(instances: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _tiny().eval()(_images(1), instances)
