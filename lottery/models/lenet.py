"""LeNet (LeCun et al. 1998)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lottery.models.images import image
from lottery.models.initialisations import gaussian_glorot_
from lottery.models.mlp import mlp


def lenet_300_100(shape: Sequence[int], classes: int) -> nn.Module:
    """Two hidden layers of 300 and 100 units, Gaussian Glorot: 266,610 parameters for 28x28 images and 10 classes.

    Takes images of `shape` (C, H, W), gives logits (N, classes).
    """
    return mlp(shape, classes, widths=(300, 100))


def lenet_5(shape: Sequence[int], classes: int) -> nn.Module:
    """Convolutions of 6 and 16 channels, hidden layers of 120 and 84 units, Gaussian Glorot.

    61,706 parameters for 1x28x28 images and 10 classes. The first convolution pads by 2, as LeCun et al. enlarge
    28x28 digits to 32x32; rectifiers and maximum pooling stand in for their sigmoids and trained subsampling.
    """
    channels, height, width = image(shape, "LeNet-5", halvings=2, smallest=12)
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    layers = [
        ("conv1", nn.Conv2d(channels, 6, 5, padding=2)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 16, 5)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(features, 120)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(120, 84)),
        ("relu4", nn.ReLU()),
        ("output", nn.Linear(84, classes)),
    ]
    return gaussian_glorot_(nn.Sequential(OrderedDict(layers)))
