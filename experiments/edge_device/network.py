"""A network in the manner of MobileNetV2 (Sandler et al. 2018) for pictures of 28x28 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

STAGES = ((16, 1, 1), (24, 1, 2), (32, 2, 3), (64, 1, 2))
"""Channels, stride and number of blocks."""
EXPANSION = 4
HEAD = 128


def mobile(shape: Sequence[int], classes: int) -> nn.Module:
    """Inverted residuals with depthwise convolutions and ReLU6, an eighth of MobileNetV2's blocks and widths.

    Takes pictures (N, channels, height, width), gives logits (N, classes).
    """
    layers: list[tuple[str, nn.Module]] = [("stem", _activated(shape[0], 16, 3, stride=2))]
    inputs = 16
    for stage, (outputs, stride, count) in enumerate(STAGES, start=1):
        for block in range(count):
            layers.append((f"block{stage}_{block + 1}", _Inverted(inputs, outputs, stride if block == 0 else 1)))
            inputs = outputs
    layers += [
        ("head", _activated(inputs, HEAD, 1)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(HEAD, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


class _Inverted(nn.Module):
    """Widens, convolves each channel by itself, and narrows again, with a shortcut where shapes allow one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * inputs
        self.widen = _activated(inputs, wide, 1)
        self.depthwise = _activated(wide, wide, 3, stride, groups=wide)
        self.narrow = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        inner = self.narrow(self.depthwise(self.widen(images)))
        return images + inner if self.adds else inner


def _activated(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
