"""HRNet (Sun et al., *Deep High-Resolution Representation Learning*, CVPR 2019), of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mipnet.models.backbone import Backbone, InsertionPoint
from mipnet.models.blocks import BasicBlock, Bottleneck, conv_bn, init_weights, residual_layer


class HRNet(Backbone):
    """High-resolution network: stage i works on i branches, at 1/4, 1/8, 1/16, ... of the input.

    ``stages[0]`` is the stem and ``stages[i]`` is stage i with the transition to the branches of stage i + 1;
    the last stage returns its high-resolution branch alone. Insertion point i is behind ``stages[i]``: on the
    branches that enter stage i + 1, or on the single output of the last stage.
    H and W should be multiples of 2^(branches + 1), 32 for the published sizes; h = H/4, w = W/4.

    Args:
        num_keypoints: K.
        width: channels of the high-resolution branch; branch b (from 0) has width·2^b.
        num_modules: exchange modules in stage 2, stage 3, ...; one entry per stage behind stage 1.
        blocks: residual blocks per branch in each exchange module.
        stem_channels: channels of the stem and of stage 1's bottlenecks.
        stage1_blocks: bottleneck blocks in stage 1.
    """

    def __init__(
        self,
        num_keypoints: int,
        width: int = 32,
        num_modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem_channels: int = 64,
        stage1_blocks: int = 4,
    ) -> None:
        super().__init__()
        sizes = {"num_keypoints": num_keypoints, "width": width, "blocks": blocks}
        sizes |= {"stem_channels": stem_channels, "stage1_blocks": stage1_blocks}
        sizes |= {"num_modules": min(num_modules, default=0)}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} of HRNet must be at least 1, not {size}")
        last = len(num_modules) + 1
        # channels[i]: of the branches of stage i
        channels = [tuple(width << b for b in range(i)) for i in range(last + 1)]
        self.stages = nn.ModuleList([Stem(stem_channels)])
        self.stages.append(FirstStage(stem_channels, stage1_blocks, channels[2]))
        for i, count in enumerate(num_modules, start=2):
            self.stages.append(Stage(channels[i], count, blocks, channels[i + 1] if i < last else None))
        self.head = nn.Conv2d(width, num_keypoints, 1)
        self.insertion_points = {
            i: InsertionPoint(i, channels[i + 1] if i < last else (width,)) for i in range(1, last + 1)
        }
        init_weights(self, self.head)


class Stem(nn.Module):
    """Two strided convolutions: (B, 3, H, W) → (B, C, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))  # (B, C, H/2, W/2)
        y: Tensor = self.relu(self.bn2(self.conv2(x)))  # (B, C, H/4, W/4)
        return y


class FirstStage(nn.Module):
    """Bottlenecks at one resolution, then the transition: (B, C, h, w) → branches of stage 2."""

    def __init__(self, channels: int, blocks: int, next_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = residual_layer(Bottleneck, channels, channels, blocks)
        self.transition = Transition((channels * Bottleneck.expansion,), next_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = self.transition([self.blocks(x)])
        return branches


class Stage(nn.Module):
    """Exchange modules, then the transition to the branches of the next stage.

    Branches b = 0, 1, …: (B, width·2^b, h/2^b, w/2^b). The last stage (``next_channels`` is None) fuses and
    returns only the high-resolution branch (B, width, h, w), because nothing reads the others.
    """

    def __init__(
        self, channels: tuple[int, ...], num_modules: int, blocks: int, next_channels: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        outputs = [len(channels)] * num_modules
        if next_channels is None:
            outputs[-1] = 1
        self.exchanges = nn.Sequential(*(ExchangeModule(channels, blocks, n) for n in outputs))
        self.transition = None if next_channels is None else Transition(channels, next_channels)

    def forward(self, branches: list[Tensor]) -> Tensor | list[Tensor]:
        branches = self.exchanges(branches)
        return branches[0] if self.transition is None else self.transition(branches)


class Transition(nn.ModuleList):
    """From the branches of one stage to those of the next.

    Existing branches change their channels where they differ; a new one is a strided convolution of the
    branch with the lowest resolution.
    """

    def __init__(self, channels: tuple[int, ...], next_channels: tuple[int, ...]) -> None:
        super().__init__()
        for b, outputs in enumerate(next_channels):
            if b >= len(channels):
                self.append(conv_bn(channels[-1], outputs, stride=2))
            else:
                self.append(nn.Identity() if channels[b] == outputs else conv_bn(channels[b], outputs))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        return [layer(branches[min(b, len(branches) - 1)]) for b, layer in enumerate(self)]


class ExchangeModule(nn.Module):
    """Residual blocks on every branch, then every output sums all branches at its own resolution.

    Args:
        channels: of each branch.
        blocks: residual blocks per branch.
        outputs: number of branches, from the highest resolution on, that are fused and returned.
    """

    def __init__(self, channels: tuple[int, ...], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(residual_layer(BasicBlock, c, c, blocks) for c in channels)
        self.fusion = nn.ModuleList(
            nn.ModuleList(_resample(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for target, layers in enumerate(self.fusion):
            assert isinstance(layers, nn.ModuleList)
            total = branches[target]  # (B, C_target, H_target, W_target)
            for source, layer in enumerate(layers):
                if source == target:
                    continue
                y = layer(branches[source])  # channels of the target
                if source > target:
                    y = F.interpolate(y, size=total.shape[-2:], mode="nearest")
                total = total + y
            fused.append(F.relu(total))
        return fused


def _resample(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Convolutions from branch ``source`` to ``target``'s channels, strided where its resolution is lower."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(channels[source], channels[target], 1, relu=False)
    steps = [conv_bn(channels[source], channels[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn(channels[source], channels[target], stride=2, relu=False))
