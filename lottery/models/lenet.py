"""LeNet (LeCun et al. 1998)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lottery.models.initialisations import gaussian_glorot_


def lenet_300_100(shape: Sequence[int], classes: int) -> nn.Module:
    """Two hidden layers of 300 and 100 units, Gaussian Glorot: 266,610 parameters for 28x28 images and 10 classes.

    Takes images of `shape` (C, H, W), gives logits (N, classes).
    """
    layers = [
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(math.prod(shape), 300)),
        ("relu1", nn.ReLU()),
        ("fc2", nn.Linear(300, 100)),
        ("relu2", nn.ReLU()),
        ("output", nn.Linear(100, classes)),
    ]
    return gaussian_glorot_(nn.Sequential(OrderedDict(layers)))
