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
    from torch.utils.flop_counter import FlopCounterMode

    shapes_only = copy.deepcopy(model).to("meta").eval()
    backbone = shapes_only.backbone
    modules: list[tuple[str, int, nn.Module]] = []
    for index, stage in enumerate(backbone.stages):
        modules.append((f"stage {index}" if index else "stem", 0, stage))
        modules += [
            ("MIMBs", place, shapes_only.mimbs[str(place)])
            for place in shapes_only.places
            if backbone.places[place].after == index
        ]
    modules.append(("head", 0, backbone.head))

    outputs: dict[nn.Module, tuple[tuple[int, ...], ...]] = {}

    def note(module: nn.Module, _: object, y: Tensor | list[Tensor]) -> None:
        outputs[module] = tuple(tuple(t.shape[1:]) for t in ([y] if isinstance(y, Tensor) else y))

    for module in (*backbone.stages, backbone.head):
        module.register_forward_hook(note)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_only(torch.empty(1, 3, *size, device="meta"))
    names = {module: f"{type(shapes_only).__name__}.{name}" for name, module in shapes_only.named_modules()}

    parts: list[Part] = []
    behind = False  # the first MIMB: from there on a row per λ
    for name, place, module in modules:
        behind = behind or bool(place)
        # Layer by layer: the first place's MIMBs are not called as modules, what they are made of is.
        layers = [names[layer] for layer in module.modules() if not [*layer.children()]]
        flops = sum(sum(counter.flop_counts[layer].values()) for layer in layers)
        rows = model.instances if behind else 1
        shapes = parts[-1].outputs if place else outputs[module]  # MIMBs change no shape
        parts.append(Part(name, place, shapes, count_parameters(module), flops // 2 // rows, behind))
    return parts
