"""``mipnet models summary``: what a network is and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mipnet.cli.shared_options import MODEL_HELP, STORAGE_HELP, Call
from mipnet.config import Config, from_dict
from mipnet.config.flags import option
from mipnet.config.presets import baseline
from mipnet.console import say
from mipnet.storage import readable_storage

if TYPE_CHECKING:
    from mipnet.models.costs import ModuleCost

ABOUT = "What a network is and what it costs."
SECTIONS = ("model", "input")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet models summary``."""

    model: str = option("", f"{MODEL_HELP}; else --preset", positional=True)
    preset: str = option("tiny", "whose network, where no model is named")
    skeleton: str = option("", "whose joints: coco17, crowdpose14 or a YAML file [the preset's]")
    storage: str = option("", STORAGE_HELP)


def run(options: Options, call: Call) -> int:
    """Print one screen: the network, its cost beside its single-instance baseline's, and its parts."""
    base, settings = call.base, call.settings
    if options.model:
        from mipnet.registry.resolve import model_config, resolve_model

        base = model_config(resolve_model(options.model, readable_storage(options.storage)))
    if options.skeleton:
        settings["data"] = {"skeleton": options.skeleton}
    say(network_summary(from_dict(settings, base)))
    return 0


def describe_network(config: Config) -> str:
    """The network in one line."""
    m = config.model
    if m.backbone == "hrnet":
        name = f"HRNet-W{m.width}"
        if (m.num_modules, m.blocks, m.stage1_blocks, m.stem_channels) != ((1, 4, 3), 4, 4, 64):
            modules = ", ".join(map(str, m.num_modules))
            name += f" (modules {modules}; {m.blocks} blocks, {m.stage1_blocks} in stage 1)"
    else:
        name = f"SimpleBaseline, ResNet-{m.depth}"
    places = "no MIMBs"
    if m.mimb_stages:
        places = f"MIMBs at places {', '.join(map(str, m.mimb_stages))} (r = {m.reduction})"
    joints = config.data.joints
    return (
        f"{name}; N = {m.instances}, {places}; {joints.num_joints} joints ({joints.name}); "
        f"input {config.input.width}x{config.input.height} (width x height)"
    )


def network_summary(config: Config) -> str:
    """All of the screen."""
    import torch

    from mipnet.models.costs import GIBI, count_parameters, module_costs, multiply_adds
    from mipnet.training.checkpoint import model_from_config

    with torch.device("meta"):
        model, plain = model_from_config(config), model_from_config(baseline(config))
    size = config.input.height, config.input.width
    cost, cost_plain = multiply_adds(model, size), multiply_adds(plain, size)
    parameters, parameters_plain = count_parameters(model), count_parameters(plain)
    parts = module_costs(model, size)
    _, height, width = parts[-1].outputs[0]

    def line(label: str, ours: int, theirs: int) -> str:
        numbers = f"{ours / GIBI:>11.2f} {theirs / GIBI:>11.2f}   x {ours / theirs:.2f}"
        return f"{label:<34}{numbers}   ({ours / 1e9:.2f} and {theirs / 1e9:.2f} · 10^9)"

    more = 100 * (parameters / parameters_plain - 1)
    return "\n".join(
        [
            describe_network(config),
            f"heatmaps {width}x{height} (width x height)",
            "",
            f"{'':<34}{'this':>11} {'N = 1':>11}",
            f"{'parameters':<34}{parameters:>11,} {parameters_plain:>11,}   + {more:.2f} %",
            line("multiply-adds / 1024^3, one λ", cost.single, cost_plain.single),
            line(f"multiply-adds / 1024^3, {model.instances} λ", cost.total, cost_plain.total),
            f"in front of the first MIMB{100 * cost.shared_fraction:>18.1f} %{'':<14}runs once, whatever N",
            "",
            f"{'part':<10}{'place':>5}  {'output (channels x height x width)':<40}{'parameters':>11}"
            f"{'multiply-adds':>16}",
            *(part_line(part, model.instances) for part in parts),
        ]
    )


def part_line(part: ModuleCost, instances: int) -> str:
    """One part of the network; its multiply-adds in 10^6."""
    shapes = ["x".join(map(str, shape)) for shape in part.outputs]
    place = str(part.mimb_stage or "")
    times = f" x {instances} λ" if part.per_instance else ""
    return (
        f"{part.name:<10}{place:>5}  {', '.join(shapes):<40}{part.parameters:>11,}"
        f"{part.multiply_adds / 1e6:>12,.2f} M{times}"
    )
