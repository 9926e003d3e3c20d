"""A folded network gives the same heatmaps and leaves the original alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mipnet.models.backbone import Backbone, InsertionPoint
from mipnet.models.build import build_model
from mipnet.models.fold import fold_batch_norms
from mipnet.models.mimb import MIMB
from mipnet.models.network import MIPNet
from mipnet.models.weights import save_model

SIZE = 64, 32
HRNET = {"width": 8, "num_modules": (1, 1), "blocks": 1, "stem_channels": 8, "stage1_blocks": 1}


def trained(model: MIPNet) -> MIPNet:
    """With batch norms whose statistics, weights and biases are all worth folding."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                nn.init.uniform_(tensor, low, high)
    return model.double().eval()


@pytest.fixture(params=["hrnet", "simplebaseline", "plain"])
def model(request: pytest.FixtureRequest) -> MIPNet:
    torch.manual_seed(0)
    if request.param == "simplebaseline":
        return trained(build_model("simplebaseline", 5, 2, (3, 4), depth=18, deconv_channels=8))
    if request.param == "plain":
        return trained(build_model("hrnet", 5, 1, (), **HRNET))
    return trained(build_model("hrnet", 5, 3, (2, 3), **HRNET))


def test_heatmaps_are_the_same_without_a_batch_norm_left(model: MIPNet) -> None:
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    folded = fold_batch_norms(model, SIZE)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in model.parameters())
    one = torch.tensor([model.instances - 1])
    with torch.no_grad():
        torch.testing.assert_close(folded(images, one), model(images, one), rtol=1e-10, atol=1e-12)


def test_embeddings_are_constants(model: MIPNet) -> None:
    folded = fold_batch_norms(model, SIZE)
    for block in (m for m in folded.modules() if isinstance(m, MIMB)):
        assert block.cached_embedding is not None
        assert block.cached_embedding.shape[0] == model.instances
        block.embed = nn.Sequential()  # nothing reads it any more
    with torch.no_grad():
        assert folded(torch.randn(1, 3, *SIZE, dtype=torch.float64)).isfinite().all()
    assert "cached_embedding" not in " ".join(folded.state_dict())


def test_a_folded_network_cannot_be_saved(model: MIPNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no architecture"):
        save_model(tmp_path, fold_batch_norms(model, SIZE))


class Odd(nn.Module):
    """Batch norms of a sum, of an activation, and of one convolution's output twice: none can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn_of_sum, self.bn_of_relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.twice, self.bn_of_twice = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)  # this one can

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_of_sum(self.conv(x) + x)
        x = self.bn_of_relu(torch.relu(x))
        x = self.bn_of_twice(self.twice(self.twice(x)))
        return self.bn(self.last(x))


class OddBackbone(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), Odd()])
        self.insertion_points = {1: InsertionPoint(0, (4,))}
        self.head = nn.Conv2d(4, 5, 1)


def test_only_what_reads_a_convolution_is_folded() -> None:
    torch.manual_seed(0)
    model = trained(MIPNet(OddBackbone(), 2, (1,)))
    folded = fold_batch_norms(model, SIZE)
    left = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == [f"backbone.stages.1.{name}" for name in ("bn_of_sum", "bn_of_relu", "bn_of_twice")]
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-10, atol=1e-12)


def test_the_copy_is_independent(model: MIPNet) -> None:
    folded = fold_batch_norms(model, SIZE)
    twin = copy.deepcopy(folded)
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        assert torch.equal(folded(images), twin(images))
