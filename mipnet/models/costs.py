"""Parameters and multiply-adds of a network, as a whole and by module."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipnet.models.network import MIPNet

GIBI = 1024**3
"""The papers divide multiply-adds by this when they quote GFLOPs."""


def count_parameters(model: nn.Module) -> int:
    """The number of trainable and frozen parameters (buffers are not parameters)."""
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of one image in eval mode: convolutions and linear layers.

    Attributes:
        shared: before the first MIMB, once per image.
        per_instance: from the first MIMB on, once per image and λ.
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
    def shared_fraction(self) -> float:
        """``shared`` as a fraction of ``single``, 0 to 1."""
        return self.shared / self.single


@dataclass(frozen=True)
class ModuleCost:
    """One stage of the backbone, the MIMBs of one insertion point, or the head.

    Attributes:
        name: "stem", "stage 1" ..., "MIMBs" or "head".
        mimb_stage: where the MIMBs are; 0 for everything else.
        outputs: (C, h, w) of every branch of its output.
        parameters: over all branches.
        multiply_adds: of one image; for one λ if ``per_instance``, else once for all.
        per_instance: whether it runs for every λ.
    """

    name: str
    mimb_stage: int
    outputs: tuple[tuple[int, ...], ...]
    parameters: int
    multiply_adds: int
    per_instance: bool


def multiply_adds(model: MIPNet, size: tuple[int, int]) -> MultiplyAdds:
    """Count multiply-adds for one image of ``size`` = (H, W) without computing anything.

    Papers quote these as GFLOPs, some of them divided by 1024³.
    """
    parts = module_costs(model, size)
    shared = sum(part.multiply_adds for part in parts if not part.per_instance)
    return MultiplyAdds(shared, sum(p.multiply_adds for p in parts) - shared, model.instances)


def module_costs(model: MIPNet, size: tuple[int, int]) -> list[ModuleCost]:
    """Costs of the network's modules in the order in which they run, for one image of ``size`` = (H, W).

    The model stays as it is: a copy on the device "meta" runs once.
    """
    from torch.utils.flop_counter import FlopCounterMode

    shapes_only = copy.deepcopy(model).to("meta").eval()
    backbone = shapes_only.backbone
    modules: list[tuple[str, int, nn.Module]] = []
    for index, stage in enumerate(backbone.stages):
        modules.append((f"stage {index}" if index else "stem", 0, stage))
        modules += [
            ("MIMBs", mimb_stage, shapes_only.mimbs[str(mimb_stage)])
            for mimb_stage in shapes_only.mimb_stages
            if backbone.insertion_points[mimb_stage].after_stage == index
        ]
    modules.append(("head", 0, backbone.head))

    outputs: dict[nn.Module, tuple[tuple[int, ...], ...]] = {}

    def record_shapes(module: nn.Module, _: object, y: Tensor | list[Tensor]) -> None:
        outputs[module] = tuple(tuple(t.shape[1:]) for t in ([y] if isinstance(y, Tensor) else y))

    for module in (*backbone.stages, backbone.head):
        module.register_forward_hook(record_shapes)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes_only(torch.empty(1, 3, *size, device="meta"))
    names = {module: f"{type(shapes_only).__name__}.{name}" for name, module in shapes_only.named_modules()}

    parts: list[ModuleCost] = []
    expanded = False  # from the first MIMB on there is a row for each λ
    for name, mimb_stage, module in modules:
        expanded = expanded or bool(mimb_stage)
        # By layer, because the first MIMBs run through ``expand_instances``, which calls only their layers.
        layers = [names[layer] for layer in module.modules() if not [*layer.children()]]
        flops = sum(sum(counter.flop_counts[layer].values()) for layer in layers)
        rows = model.instances if expanded else 1
        shapes = parts[-1].outputs if mimb_stage else outputs[module]  # MIMBs change no shape
        parameters, adds = count_parameters(module), flops // 2 // rows
        parts.append(ModuleCost(name, mimb_stage, shapes, parameters, adds, expanded))
    return parts
