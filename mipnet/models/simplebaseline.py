"""SimpleBaseline (Xiao et al., *Simple Baselines for Human Pose Estimation and Tracking*, ECCV 2018)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from mipnet.models.backbone import Backbone, InsertionPoint
from mipnet.models.blocks import BasicBlock, Bottleneck, init_weights, residual_layer

#: depth → (residual block, blocks in each of the four layers)
RESNET_LAYERS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class SimpleBaseline(Backbone):
    """ResNet, transposed convolutions (4×4, stride 2), and a 1×1 convolution.

    ``stages[0]`` is the stem, ``stages[i]`` is residual layer i; insertion point i is the input of layer i.
    h = H/32·2^deconvs, w = W/32·2^deconvs: a quarter of the input for three deconvolutions.

    Args:
        num_keypoints: K.
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        deconvs: number of transposed convolutions.
        deconv_channels: their channels.
    """

    def __init__(
        self, num_keypoints: int, depth: int = 50, deconvs: int = 3, deconv_channels: int = 256
    ) -> None:
        super().__init__()
        if depth not in RESNET_LAYERS:
            raise ValueError(f"depth must be one of {', '.join(map(str, RESNET_LAYERS))}, not {depth}")
        if min(num_keypoints, deconvs, deconv_channels) < 1:
            sizes = "num_keypoints, deconvs and deconv_channels"
            raise ValueError(f"{sizes} of SimpleBaseline must be at least 1")
        block, counts = RESNET_LAYERS[depth]
        stem = OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(3, 2, padding=1),
        )
        self.stages = nn.ModuleList([nn.Sequential(stem)])
        self.insertion_points = {}
        inputs = 64
        for i, count in enumerate(counts):
            self.insertion_points[i + 1] = InsertionPoint(i, (inputs,))
            channels = 64 << i
            self.stages.append(residual_layer(block, inputs, channels, count, stride=1 if i == 0 else 2))
            inputs = channels * block.expansion

        layers: list[nn.Module] = []
        for _ in range(deconvs):
            layers += [
                nn.ConvTranspose2d(inputs, deconv_channels, 4, 2, padding=1, bias=False),
                nn.BatchNorm2d(deconv_channels),
                nn.ReLU(inplace=True),
            ]
            inputs = deconv_channels
        final = nn.Conv2d(inputs, num_keypoints, 1)
        self.head = nn.Sequential(OrderedDict(deconvs=nn.Sequential(*layers), final=final))
        init_weights(self, final)
