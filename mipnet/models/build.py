"""Build a network from plain arguments."""

from __future__ import annotations

from collections.abc import Sequence

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
