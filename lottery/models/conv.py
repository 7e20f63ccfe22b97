"""Conv-2, Conv-4 and Conv-6: VGG in small, for CIFAR-10 (Frankle & Carbin 2019)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lottery.models.images import image
from lottery.models.initialisations import gaussian_glorot_


def conv(depth: int, shape: Sequence[int], classes: int, dropout: float = 0.0) -> nn.Module:
    """Pairs of 3x3 convolutions of 64, 128, 256 channels, each followed by pooling; two hidden layers of 256 units.

    Weights are drawn by Gaussian Glorot. `dropout` follows each hidden layer. It is 0.5 in the paper's experiments on
    dropout; after which layers, we do not know.
    """
    if depth not in (2, 4, 6):
        raise ValueError(f"depth={depth}: must be 2, 4 or 6 convolutions")
    pairs = depth // 2
    channels, height, width = image(shape, f"Conv-{depth}", halvings=pairs, smallest=2**pairs)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for pair in range(pairs):
        for index in (2 * pair + 1, 2 * pair + 2):
            layers[f"conv{index}"] = nn.Conv2d(channels, 64 * 2**pair, 3, padding=1)
            layers[f"relu{index}"] = nn.ReLU()
            channels = 64 * 2**pair
        layers[f"pool{pair + 1}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    units = channels * (height // 2**pairs) * (width // 2**pairs)
    for index in (1, 2):
        layers[f"fc{index}"] = nn.Linear(units, 256)
        layers[f"relu{depth + index}"] = nn.ReLU()
        layers[f"dropout{index}"] = nn.Dropout(dropout)
        units = 256
    layers["output"] = nn.Linear(units, classes)
    return gaussian_glorot_(nn.Sequential(layers))
