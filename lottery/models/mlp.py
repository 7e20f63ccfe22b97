"""Multilayer perceptrons: of any widths, and the one with a skip connection of Greydanus & Kobak 2020 for MNIST-1D."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lottery.models.initialisations import gaussian_glorot_


def mlp(shape: Sequence[int], classes: int, widths: Sequence[int], dropout: float = 0.0) -> nn.Module:
    """Hidden layers of these widths, each a rectifier and, if asked for, dropout; Gaussian Glorot.

    Takes inputs of any shape, gives logits (N, classes). Raises ValueError for a width under 1 and for no widths.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: must name at least one hidden layer, each of at least 1 unit")
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for number, (inputs, width) in enumerate(pairwise([math.prod(shape), *widths]), start=1):
        layers += [(f"fc{number}", nn.Linear(inputs, width)), (f"relu{number}", nn.ReLU())]
        layers += [(f"dropout{number}", nn.Dropout(dropout))] if dropout else []
    layers.append(("output", nn.Linear(widths[-1], classes)))
    return gaussian_glorot_(nn.Sequential(OrderedDict(layers)))


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
