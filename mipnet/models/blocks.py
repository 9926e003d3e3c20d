"""Convolutions, residual blocks and initial weights that the backbones share."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, relu: bool = True
) -> nn.Sequential:
    """Convolution (no bias, padded to keep H and W at stride 1), batch norm, and ReLU if ``relu``."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Projects a block's input to the shape of its output; None if the shapes agree."""
    if in_channels == out_channels and stride == 1:
        return None
    return conv_bn(in_channels, out_channels, 1, stride, relu=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (B, in_channels, H, W) → (B, channels, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1, shortcut: (B, in_channels, H, W) → (B, 4·channels, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(y)
        return out


def residual_layer(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, count: int, stride: int = 1
) -> nn.Sequential:
    """``count`` residual blocks in a row; the first one has the stride and changes the channels."""
    out_channels = channels * block.expansion
    rest = (block(out_channels, channels) for _ in range(count - 1))
    return nn.Sequential(block(in_channels, channels, stride), *rest)


def init_weights(backbone: nn.Module, heatmap_conv: nn.Conv2d) -> None:
    """Initialize a backbone whose heatmaps come from the convolution ``heatmap_conv``.

    Convolutions before a batch norm get He's normal initialization. The usual choice for these networks, a
    standard deviation of 0.001, gives the same first outputs (batch norm removes the scale), but the scale
    sets how far a step goes: one step of Adam at lr 1e-3 replaces such weights altogether. That is harmless
    after ImageNet weights, and needless noise when a small network starts from scratch.
    ``heatmap_conv`` keeps 0.001 and no bias, so the first heatmaps are nearly zero, as most of the targets.

    On the device "meta" nothing is initialized, because that would make PyTorch load its compiler's
    decompositions, about a second of a core.
    """
    if heatmap_conv.weight.is_meta:
        return
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(heatmap_conv.weight, std=0.001)
    if heatmap_conv.bias is not None:
        nn.init.zeros_(heatmap_conv.bias)
