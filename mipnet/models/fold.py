"""Fold batch norms into the preceding convolutions, for inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mipnet.models.mimb import MIMB
from mipnet.models.network import MIPNet


def fold_batch_norms(model: MIPNet, size: tuple[int, int]) -> MIPNet:
    """A copy with the same heatmaps, up to rounding, and fewer operations.

    In eval mode a batch norm is a scale and a shift per channel, which go into the convolution's weight and
    bias, and z of a MIMB is a constant vector per λ. One forward pass tells which batch norm reads which
    convolution, so this works for any backbone; batch norms that read anything else stay.

    Args:
        model: is not changed.
        size: (H, W) of an input that fits it.

    Returns:
        in eval mode; it cannot be trained or saved (``architecture`` is None).
    """
    folded = copy.deepcopy(model).requires_grad_(False).eval()
    folded.architecture = None
    for convolution, norm in _foldable_pairs(folded, size):
        conv, bn = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        assert isinstance(bn, nn.BatchNorm2d)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        folded.set_submodule(convolution, fuse_conv_bn_eval(conv, bn, transposed))
        folded.set_submodule(norm, nn.Identity())
    for module in folded.modules():
        if isinstance(module, MIMB):
            module.cache_embedding()
    return folded.eval()


def _foldable_pairs(model: MIPNet, size: tuple[int, int]) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where the second reads the output of the first, each used once.

    Found by a forward pass of one black crop. On the device "meta" it would cost nothing, but importing what
    that needs takes a second of a core.
    """
    runs: dict[str, int] = {}
    reads: dict[str, list[str | None]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):

            def wrote(module: nn.Module, inputs: object, output: Tensor, name: str = name) -> None:
                output.written_by = name  # type: ignore[attr-defined]
                runs[name] = runs.get(name, 0) + 1

            hooks.append(module.register_forward_hook(wrote))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:

            def read(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                reads.setdefault(name, []).append(getattr(inputs[0], "written_by", None))

            hooks.append(module.register_forward_pre_hook(read))
    weight = next(model.parameters())
    with torch.no_grad():
        model(torch.zeros(1, 3, *size, dtype=weight.dtype, device=weight.device))
    for hook in hooks:
        hook.remove()
    norms = {name: sources[0] for name, sources in reads.items() if len(sources) == 1}
    return [(source, name) for name, source in norms.items() if source is not None and runs[source] == 1]
