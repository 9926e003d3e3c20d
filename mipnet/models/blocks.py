"""Convolutions, residual blocks and initial weights that the backbones share."""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True
) -> nn.Sequential:
    """Convolution (no bias, padded to keep H and W at stride 1), batch norm, and ReLU if ``relu``."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to its output's shape; None where they agree already."""
    return None if inputs == outputs and stride == 1 else conv_bn(inputs, outputs, 1, stride, relu=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (B, inputs, H, W) → (B, channels, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 and a shortcut: (B, inputs, H, W) → (B, 4·channels, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def residual_layer(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, channels: int, count: int, stride: int = 1
) -> nn.Sequential:
    """``count`` residual blocks in a row; the first one strides and changes the number of channels."""
    outputs = channels * block.expansion
    rest = (block(outputs, channels) for _ in range(count - 1))
    return nn.Sequential(block(inputs, channels, stride), *rest)


def initialise(backbone: nn.Module, last: nn.Conv2d) -> None:
    """Fresh weights for a backbone whose heatmaps come from the convolution ``last``.

    Convolutions in front of a batch norm get He's normal initialisation. The usual choice for these networks,
    a standard deviation of 0.001, gives the same first outputs (batch norm removes the scale), but the scale
    still sets how far a step goes: one step of Adam at lr 1e-3 replaces such weights altogether, which is
    harmless on top of ImageNet weights and needless noise when a small network starts from scratch.
    ``last`` keeps 0.001 and no bias: the first heatmaps are then nearly zero, as the targets mostly are.

    A network without memory, on the device "meta", has no weights to draw; drawing none of them there makes
    PyTorch load its compiler's decompositions, about a second of a core.
    """
    if last.weight.is_meta:
        return
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(last.weight, std=0.001)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
