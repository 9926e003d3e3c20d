"""HRNet (Sun et al., *Deep High-Resolution Representation Learning*, CVPR 2019), of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mipnet.models.backbone import Backbone, Place
from mipnet.models.blocks import BasicBlock, Bottleneck, conv_bn, initialise, residual_layer


class HRNet(Backbone):
    """High-resolution network: stage i works on i branches, at 1/4, 1/8, 1/16, ... of the input.

    ``stages[0]`` is the stem and ``stages[i]`` is stage i with the transition to the branches of stage i + 1;
    the last stage returns its high-resolution branch alone. Place i is therefore behind ``stages[i]``: on the
    branches entering stage i + 1, or, the last one, on the single output of the last stage.
    H and W should be multiples of 2^(branches + 1), 32 for the published sizes; h = H/4, w = W/4.

    Args:
        num_joints: K.
        width: channels of the high-resolution branch; branch b (from 0) has width·2^b.
        modules: exchange modules in stage 2, stage 3, ...; its length is the number of stages behind stage 1.
        blocks: residual blocks per branch in each exchange module.
        stem_channels: channels of the stem and of stage 1's bottlenecks.
        stage1_blocks: bottleneck blocks in stage 1.
    """

    def __init__(
        self,
        num_joints: int,
        width: int = 32,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem_channels: int = 64,
        stage1_blocks: int = 4,
    ) -> None:
        super().__init__()
        sizes = {"num_joints": num_joints, "width": width, "blocks": blocks, "stem_channels": stem_channels}
        sizes |= {"stage1_blocks": stage1_blocks, "modules": min(modules, default=0)}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} of HRNet must be at least 1, not {size}")
        last = len(modules) + 1
        # By stage: the channels of its branches
        channels = [tuple(width << b for b in range(i)) for i in range(last + 1)]
        self.stages = nn.ModuleList([Stem(stem_channels)])
        self.stages.append(FirstStage(stem_channels, stage1_blocks, channels[2]))
        for i, count in enumerate(modules, start=2):
            following = channels[i + 1] if i < last else None
            self.stages.append(Stage(channels[i], count, blocks, following))
        self.head = nn.Conv2d(width, num_joints, 1)
        self.places = {i: Place(i, channels[i + 1] if i < last else (width,)) for i in range(1, last + 1)}
        initialise(self, self.head)


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
        x = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(x)))


class FirstStage(nn.Module):
    """Bottlenecks at one resolution, then the transition to the two branches of stage 2."""

    def __init__(self, channels: int, blocks: int, following: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = residual_layer(Bottleneck, channels, channels, blocks)
        self.transition = Transition((channels * Bottleneck.expansion,), following)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.transition([self.blocks(x)])


class Stage(nn.Module):
    """Exchange modules, then the transition to the branches of the next stage.

    In the last stage (``following`` is None) only the high-resolution branch is fused and returned, as a
    tensor: nothing reads the others.
    """

    def __init__(
        self, channels: tuple[int, ...], modules: int, blocks: int, following: tuple[int, ...] | None
    ) -> None:
        super().__init__()
        outputs = [len(channels)] * modules
        if following is None:
            outputs[-1] = 1
        self.exchanges = nn.Sequential(*(ExchangeModule(channels, blocks, n) for n in outputs))
        self.transition = None if following is None else Transition(channels, following)

    def forward(self, branches: list[Tensor]) -> Tensor | list[Tensor]:
        branches = self.exchanges(branches)
        return branches[0] if self.transition is None else self.transition(branches)


class Transition(nn.ModuleList):
    """From the branches of one stage to those of the next: kept ones change their width where it differs,
    new ones are strided from the lowest resolution."""

    def __init__(self, channels: tuple[int, ...], following: tuple[int, ...]) -> None:
        super().__init__()
        for b, outputs in enumerate(following):
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
        outputs: how many branches, from the highest resolution on, are fused and returned.
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
            total = branches[target]
            for source, layer in enumerate(layers):
                if source == target:
                    continue
                y = layer(branches[source])
                if source > target:
                    y = F.interpolate(y, size=total.shape[-2:], mode="nearest")
                total = total + y
            fused.append(F.relu(total))
        return fused


def _resample(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Brings branch ``source`` to ``target``'s channels, and down to its resolution where that is lower."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_bn(channels[source], channels[target], 1, relu=False)
    steps = [conv_bn(channels[source], channels[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn(channels[source], channels[target], stride=2, relu=False))
