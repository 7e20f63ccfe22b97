"""Paths from input to output that masks leave, and layers that they leave nothing of (layer collapse)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from lottery.pruning.calls import given
from lottery.pruning.masks import Masks

NEUTRAL = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.modules.dropout._DropoutNd)


def layer_death(masks: Mapping[str, Tensor]) -> list[str]:
    """The layers of which the masks keep nothing.

    >>> layer_death({"a": torch.tensor([True, False]), "b": torch.tensor([False, False])})
    ['b']
    """
    return [name for name, mask in masks.items() if mask.numel() and not mask.any()]


def connected_paths(net: nn.Module, masks: Masks, example: Tensor) -> float:
    """The number of paths of kept weights from the inputs to the outputs of one example; zero if there is none.

    A forward pass in float64, on an input of ones shaped like the first of `example`: each masked weight is its mask,
    every other weight one, every bias zero; normalisation, dropout and activations pass on what they are given. Counts
    are exact up to 2^53. Pooling keeps its mean or maximum of counts, which is zero only where all of them are. What a
    network computes by functions instead of layers stays as it is, and must be zero at zero. The network is left
    unchanged.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[1, 1, 0], [0, 0, 1]]).bool(), "2.weight": torch.tensor([[1, 0]]).bool()}
    >>> connected_paths(net, masks, torch.zeros(1, 3))
    2.0

    Raises ValueError if the network gives anything but one tensor.
    """
    floats = example.is_floating_point()
    inputs = torch.ones_like(example[:1], dtype=torch.float64 if floats else None)
    weights: dict[str, Tensor] = {}
    for name, weight in net.named_parameters():
        if "bias" in name.rpartition(".")[2].split("_"):  # attention has in_proj_bias and bias_k, an LSTM bias_ih_l0
            weights[name] = torch.zeros_like(weight, dtype=torch.float64)
        elif name in masks:
            weights[name] = masks[name].to(weight.device, torch.float64)
        else:
            weights[name] = torch.ones_like(weight, dtype=torch.float64)
    weights |= {name: each.double() for name, each in net.named_buffers() if each.is_floating_point()}
    with _linear(net), torch.no_grad():
        outputs = functional_call(net, weights, (inputs,))
    if not isinstance(outputs, Tensor):
        raise ValueError(f"paths: the network must give one tensor, not a {type(outputs).__name__}")
    return float(outputs.sum())


@contextmanager
def _linear(net: nn.Module) -> Iterator[None]:
    """Within the context, evaluation mode, in which normalisation and activations pass on their inputs."""

    def passed_on(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return given(args, kwargs)

    modes = {layer: layer.training for layer in net.modules()}
    hooks = [layer.register_forward_hook(passed_on, with_kwargs=True) for layer in modes if _neutral(layer)]
    net.eval()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training


def _neutral(layer: nn.Module) -> bool:
    activation = type(layer).__module__ == "torch.nn.modules.activation"
    return isinstance(layer, NEUTRAL) or (activation and not isinstance(layer, nn.MultiheadAttention))
