"""BiSeNet, the face parser of facexlib and PuLID: ResNet-18 context path, feature fusion, one head (Yu et al. 2018).

The published variant takes the ResNet's own map at 1/8 for the spatial path. Parameter names are those of its file. Of
its three heads only the first is used: the other two, which trained it, are not built. Letters: B pictures, C classes,
H, W a picture's sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operations = Any  # a namespace with Conv2d: torch.nn, or ComfyUI's


@dataclass(frozen=True)
class BiSeNetSizes:
    """Channels: stem and stages of the ResNet, context path, fusion, its bottleneck, head; and the classes."""

    stem: int = 64
    stages: tuple[int, ...] = (64, 128, 256, 512)
    context: int = 128
    fusion: int = 256
    bottleneck: int = 64
    head: int = 256
    classes: int = 19


class BiSeNet(nn.Module):
    """Class logits (B, C, H, W) of pictures (B, 3, H, W), RGB normalised by ImageNet's mean and deviation."""

    def __init__(self, sizes: BiSeNetSizes, operations: Operations = nn) -> None:
        super().__init__()
        self.cp = _ContextPath(sizes, operations)
        self.ffm = _Fusion(sizes.stages[1] + sizes.context, sizes.fusion, sizes.bottleneck, operations)
        self.conv_out = _Head(sizes.fusion, sizes.head, sizes.classes, operations)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(torch.cat(self.cp(image), dim=1)))
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)


class _ConvNorm(nn.Module):
    """Convolution that keeps the size, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, projected where width or size change; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, operations: Operations) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = operations.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs or stride != 1:
            projection = operations.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return (shortcut + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class _ResNet18(nn.Module):
    """Maps at 1/8, 1/16 and 1/32."""

    def __init__(self, stem: int, stages: Sequence[int], operations: Operations) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, stages[0], 1, operations)
        self.layer2 = _stage(stages[0], stages[1], 2, operations)
        self.layer3 = _stage(stages[1], stages[2], 2, operations)
        self.layer4 = _stage(stages[2], stages[3], 2, operations)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


def _stage(inputs: int, outputs: int, stride: int, operations: Operations) -> nn.Sequential:
    return nn.Sequential(
        _ResidualBlock(inputs, outputs, stride, operations), _ResidualBlock(outputs, outputs, 1, operations)
    )


class _Refinement(nn.Module):
    """Attention refinement: channels weighed by a gate that sees the whole map."""

    def __init__(self, inputs: int, outputs: int, operations: Operations) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, outputs, 3, operations)
        self.conv_atten = operations.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_mean(x))).sigmoid()


class _ContextPath(nn.Module):
    """The ResNet's map at 1/8, and what its deeper maps say at that size."""

    def __init__(self, sizes: BiSeNetSizes, operations: Operations) -> None:
        super().__init__()
        width = sizes.context
        self.resnet = _ResNet18(sizes.stem, sizes.stages, operations)
        self.arm16 = _Refinement(sizes.stages[2], width, operations)
        self.arm32 = _Refinement(sizes.stages[3], width, operations)
        self.conv_head32 = _ConvNorm(width, width, 3, operations)
        self.conv_head16 = _ConvNorm(width, width, 3, operations)
        self.conv_avg = _ConvNorm(sizes.stages[3], width, 1, operations)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, deepest = self.resnet(image)
        context = self.arm32(deepest) + self.conv_avg(_mean(deepest))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[2:])) + self.arm16(sixteenth)
        return eighth, self.conv_head16(F.interpolate(context, eighth.shape[2:]))


class _Fusion(nn.Module):
    """Feature fusion: both paths mixed, then each channel raised by a gate between 0 and 1."""

    def __init__(self, inputs: int, outputs: int, bottleneck: int, operations: Operations) -> None:
        super().__init__()
        self.convblk = _ConvNorm(inputs, outputs, 1, operations)
        self.conv1 = operations.Conv2d(outputs, bottleneck, 1, bias=False)
        self.conv2 = operations.Conv2d(bottleneck, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convblk(x)
        return x + x * self.conv2(self.conv1(_mean(x)).relu()).sigmoid()


class _Head(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int, operations: Operations) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, width, 3, operations)
        self.conv_out = operations.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


def _mean(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1)."""
    return maps.mean(dim=(2, 3), keepdim=True)
