"""Build a network from plain arguments."""

from __future__ import annotations

from collections.abc import Sequence

from mipnet.errors import ConfigError, suggest
from mipnet.models.backbone import Backbone
from mipnet.models.hrnet import HRNet
from mipnet.models.network import MIPNet
from mipnet.models.simplebaseline import SimpleBaseline

BACKBONES: dict[str, type[HRNet] | type[SimpleBaseline]] = {"hrnet": HRNet, "simplebaseline": SimpleBaseline}


def build_model(
    backbone: str,
    num_keypoints: int = 17,
    instances: int = 2,
    mimb_stages: Sequence[int] = (3, 4),
    reduction: int = 4,
    **backbone_args: object,
) -> MIPNet:
    """A freshly initialized network; ``model.architecture`` has these arguments, under these names.

    Args:
        backbone: "hrnet" or "simplebaseline".
        num_keypoints: K.
        instances: N; 1 without MIMB stages is the backbone alone.
        mimb_stages: numbers of the backbone's insertion points that get MIMBs.
        reduction: r, the channel reduction inside a MIMB.
        backbone_args: other arguments of ``HRNet`` (width, num_modules, …) or ``SimpleBaseline`` (depth, …)

    Raises:
        ConfigError: an unknown backbone, or unknown or impossible arguments of it.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"unknown backbone {backbone!r}", suggest(backbone, BACKBONES))
    try:
        body: Backbone = BACKBONES[backbone](num_keypoints, **backbone_args)  # type: ignore[arg-type]
        model = MIPNet(body, instances, mimb_stages, reduction)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot build this {backbone} network: {error}") from error
    known = {"backbone": backbone, "num_keypoints": num_keypoints, "instances": instances}
    lists = {name: list(arg) if isinstance(arg, tuple) else arg for name, arg in backbone_args.items()}
    model.architecture = {**known, "mimb_stages": list(model.mimb_stages), "reduction": reduction, **lists}
    return model
