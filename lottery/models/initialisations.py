"""Initialisations of a whole network, in place: biases become zero, normalisation layers the identity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Initialisation = Callable[[nn.Module], nn.Module]


def gaussian_glorot_(net: nn.Module) -> nn.Module:
    """Normal with variance 2 / (fan in + fan out) (Glorot & Bengio 2010): all networks of Frankle & Carbin 2019."""
    return _filled(net, nn.init.xavier_normal_)


def kaiming_normal_(net: nn.Module) -> nn.Module:
    """Normal with variance 2 / fan in (He et al. 2015): OpenLTH's default for its ResNets and VGGs.

    OpenLTH also draws the weights of BatchNorm from [0, 1]; this function sets them to one, as He et al. 2016 do.
    """
    return _filled(net, partial(nn.init.kaiming_normal_, nonlinearity="relu"))


def kaiming_uniform_(net: nn.Module) -> nn.Module:
    """Uniform with variance 2 / fan in (He et al. 2015)."""
    return _filled(net, partial(nn.init.kaiming_uniform_, nonlinearity="relu"))


def _filled(net: nn.Module, draw: Callable[[Tensor], Tensor]) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()
    return net
