"""Initialisations of a whole network, in place."""

from __future__ import annotations

from torch import nn


def gaussian_glorot_(net: nn.Module) -> nn.Module:
    """Normal with variance 2 / (fan in + fan out), biases zero (Glorot & Bengio 2010)."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
