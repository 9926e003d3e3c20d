"""What a network costs: parameters and multiply-adds, as a whole and part by part."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipnet.models.network import MIPNet

GIBI = 1024**3
"""What the papers divide multiply-adds by when they quote GFLOPs."""


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


@dataclass(frozen=True)
class Part:
    """One stage of the backbone, the MIMBs of one place, or the head.

    Attributes:
        name: "stem", "stage 1" ..., "MIMBs" or "head".
        place: the number of the place that MIMBs are at; 0 for everything else.
        outputs: (C, h, w) of every branch that it returns.
        parameters: of all its branches.
        multiply_adds: of one image; for one λ if ``per_instance``, else once for all.
        per_instance: whether it runs for every λ.
    """

    name: str
    place: int
    outputs: tuple[tuple[int, ...], ...]
    parameters: int
    multiply_adds: int
    per_instance: bool


def multiply_adds(model: MIPNet, size: tuple[int, int]) -> MultiplyAdds:
    """Count multiply-adds for one image of ``size`` = (H, W) without computing anything.

    Papers quote these as GFLOPs, some of them divided by 1024³.
    """
    parts = network_parts(model, size)
    shared = sum(part.multiply_adds for part in parts if not part.per_instance)
    return MultiplyAdds(shared, sum(p.multiply_adds for p in parts) - shared, model.instances)


def network_parts(model: MIPNet, size: tuple[int, int]) -> list[Part]:
    """The network's parts in the order in which they run, for one image of ``size`` = (H, W).

    The model is left as it is: a copy without values runs once.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval()
    stages = ["stem", *(f"stage {i}" for i in range(1, len(shapes_only.backbone.stages)))]
    modules: list[tuple[str, int, nn.Module]] = []
    for index, (name, stage) in enumerate(zip(stages, shapes_only.backbone.stages, strict=True)):
        modules.append((name, 0, stage))
        modules += [
            ("MIMBs", place, shapes_only.mimbs[str(place)])
            for place in shapes_only.places
            if shapes_only.backbone.places[place].after == index
        ]
    modules.append(("head", 0, shapes_only.backbone.head))

    spent = dict.fromkeys(range(len(modules)), 0)
    outputs: dict[int, list[tuple[int, ...]]] = {number: [] for number in spent}

    def count(number: int, x: Tensor, y: Tensor, module: nn.Module) -> None:
        spent[number] += _multiply_adds_of(module, x, y)

    def note(number: int, y: Tensor | list[Tensor]) -> None:
        outputs[number] += [tuple(t.shape[1:]) for t in ([y] if isinstance(y, Tensor) else y)]

    for number, (_, place, module) in enumerate(modules):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                layer.register_forward_hook(lambda m, x, y, n=number: count(n, x[0], y, m))
        if not place:  # MIMBs change no shape, and the first place's are not called like modules
            module.register_forward_hook(lambda m, x, y, n=number: note(n, y))
    with torch.no_grad():
        shapes_only(torch.empty(1, 3, *size, device="meta"))

    parts: list[Part] = []
    behind = False  # the first MIMB: from there on a row per λ
    for number, (name, place, module) in enumerate(modules):
        behind = behind or bool(place)
        shapes = parts[-1].outputs if place else tuple(outputs[number])
        once = spent[number] // model.instances if behind else spent[number]
        parts.append(Part(name, place, shapes, count_parameters(module), once, behind))
    return parts


def _multiply_adds_of(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Of all rows of this call. A transposed convolution spends its kernel on every input pixel."""
    if isinstance(module, nn.ConvTranspose2d):
        return x.numel() * module.weight[0].numel()
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return y.numel() * module.weight[0].numel()
