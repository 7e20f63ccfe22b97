"""A multilayer perceptron with one skip connection: that of Greydanus & Kobak 2020 for MNIST-1D."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def residual_mlp(shape: Sequence[int], classes: int, width: int = 500) -> nn.Module:
    """Two hidden layers of `width` units, the second added to what it reads, with PyTorch's own initialisation.

    276,010 parameters for 40 inputs, 10 classes and 500 units. Takes inputs of any shape, gives logits (N, classes).
    Raises ValueError for fewer than one unit.
    """
    if width < 1:
        raise ValueError(f"width={width}: must be at least 1 unit")
    layers = [
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(math.prod(shape), width)),
        ("relu1", nn.ReLU()),
        ("fc2", _Added(width)),
        ("output", nn.Linear(width, classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


class _Added(nn.Module):
    """A linear layer and a rectifier, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.relu(self.linear(hidden))
