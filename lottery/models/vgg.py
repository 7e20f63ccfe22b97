"""VGG for small images (Simonyan & Zisserman 2015), with BatchNorm and one linear layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lottery.models.images import image
from lottery.models.initialisations import Initialisation, kaiming_normal_

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Number of convolutions in each stage, by depth."""


def vgg(
    depth: int, shape: Sequence[int], classes: int, init: Initialisation = kaiming_normal_, width: float = 1
) -> nn.Module:
    """Five stages of 3x3 convolutions, then the mean over the image and one linear layer, as in Liu et al. 2019.

    Maximum pooling between the stages, and the mean where a fifth one would be: on 32x32 images it is over 2x2.
    The convolutions have no biases, because BatchNorm would cancel them (OpenLTH's have some).
    Stages have `width` times 64, 128, 256, 512 and 512 channels.
    """
    if depth not in CONVOLUTIONS:
        raise ValueError(f"depth={depth}: must be one of {', '.join(map(str, CONVOLUTIONS))}")
    if round(WIDTHS[0] * width) < 1:
        raise ValueError(f"width={width}: leaves no channel of {WIDTHS[0]}; must be at least 0.01")
    channels, _, _ = image(shape, f"VGG-{depth}", halvings=4, smallest=16)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, (outputs, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True), start=1):
        for index in range(1, count + 1):
            inputs, channels = channels, round(outputs * width)
            layers[f"conv{stage}_{index}"] = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
            layers[f"bn{stage}_{index}"] = nn.BatchNorm2d(channels)
            layers[f"relu{stage}_{index}"] = nn.ReLU()
        layers[f"pool{stage}"] = nn.MaxPool2d(2) if stage < len(WIDTHS) else nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(channels, classes)
    return init(nn.Sequential(layers))
