"""Build a network from plain arguments, and count what it costs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipnet.errors import ConfigError, nearest
from mipnet.models.backbone import Backbone
from mipnet.models.hrnet import HRNet
from mipnet.models.network import MIPNet
from mipnet.models.simplebaseline import SimpleBaseline

BACKBONES: dict[str, type[HRNet] | type[SimpleBaseline]] = {"hrnet": HRNet, "simplebaseline": SimpleBaseline}


def build_model(
    backbone: str,
    num_joints: int = 17,
    instances: int = 2,
    places: Sequence[int] = (3, 4),
    reduction: int = 4,
    **backbone_args: object,
) -> MIPNet:
    """A freshly initialised network; ``model.architecture`` remembers these arguments.

    Args:
        backbone: "hrnet" or "simplebaseline".
        num_joints: K.
        instances: N; 1 together with no places is the plain backbone.
        places: where the MIMBs go.
        reduction: of the MIMBs.
        backbone_args: what else ``HRNet`` (width, modules, ...) or ``SimpleBaseline`` (depth, ...) takes.

    Raises:
        ConfigError: an unknown backbone, or arguments that it does not have or cannot work with.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"unknown backbone {backbone!r}", nearest(backbone, BACKBONES))
    try:
        body: Backbone = BACKBONES[backbone](num_joints, **backbone_args)  # type: ignore[arg-type]
        model = MIPNet(body, instances, places, reduction)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot build this {backbone} network: {error}") from error
    model.architecture = {
        "backbone": backbone,
        "num_joints": num_joints,
        "instances": instances,
        "places": list(model.places),
        "reduction": reduction,
        **{name: list(arg) if isinstance(arg, tuple) else arg for name, arg in backbone_args.items()},
    }
    return model


def count_parameters(model: nn.Module) -> int:
    """The number of trainable and frozen parameters (buffers are not parameters)."""
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of one image in eval mode: convolutions and linear layers.

    Attributes:
        shared: in front of the first MIMB, once per image.
        per_instance: behind it, once per image and λ.
        instances: N.
    """

    shared: int
    per_instance: int
    instances: int

    @property
    def single(self) -> int:
        """For one λ."""
        return self.shared + self.per_instance

    @property
    def total(self) -> int:
        """For all λ."""
        return self.shared + self.instances * self.per_instance

    @property
    def share(self) -> float:
        """What part of ``single`` is shared, 0 to 1."""
        return self.shared / self.single


def multiply_adds(model: MIPNet, size: tuple[int, int]) -> MultiplyAdds:
    """Count multiply-adds for one image of ``size`` = (H, W) without computing anything.

    Papers quote these as GFLOPs, some of them divided by 1024³.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval()
    in_front = shapes_only.backbone.stages[: model.shared_stages] if model.places else shapes_only
    shared = set(in_front.modules())
    counts = {True: 0, False: 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts[module in shared] += _multiply_adds_of(module, inputs[0], output)

    for module in shapes_only.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes_only(torch.empty(1, 3, *size, device="meta"))
    # Behind the first MIMB there were N rows.
    return MultiplyAdds(counts[True], counts[False] // model.instances, model.instances)


def _multiply_adds_of(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Of all rows of this call. A transposed convolution spends its kernel on every input pixel."""
    if isinstance(module, nn.ConvTranspose2d):
        return x.numel() * module.weight[0].numel()
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return y.numel() * module.weight[0].numel()
