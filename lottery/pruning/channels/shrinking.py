"""The smaller network: a copy whose parameters and buffers are the gathered ones, and whose layers know their sizes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lottery.foundations.errors import Refused, describe, nearby
from lottery.pruning.channels.attention import with_heads
from lottery.pruning.channels.removal import Structure, gathered


def shrunk(net: nn.Module, structure: Structure) -> nn.Module:
    """A copy of the network that has only what the structure keeps; the network itself is left unchanged.

    Tied weights stay tied. Gradients are not copied. Given a network as it is defined, it has the shapes into which the
    state of another one with that structure can be loaded.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> shrunk(net, {"0.weight": {0: [0, 2]}, "0.bias": {0: [0, 2]}, "2.weight": {1: [0, 2]}})[2]
    Linear(in_features=2, out_features=2, bias=True)

    Raises Refused if the structure does not fit the network, or a layer can't have what it keeps.
    """
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    if unknown := [name for name in structure if name not in tensors]:
        raise Refused(f"structure.{unknown[0]}: the network has no such tensor; {nearby(unknown[0], list(tensors))}")
    with torch.no_grad():
        small = gathered({name: tensors[name] for name in structure}, structure)
    new = {id(tensors[name]): _as(tensors[name], tensor) for name, tensor in small.items()}
    try:
        # whatever refers to a tensor gets the gathered one, and nothing is copied only to be cut
        found = copy.deepcopy(net, dict(new))
    except (RuntimeError, TypeError) as error:
        raise Refused(f"channels: the network can't be copied, and so not shrunk: {describe(error)}") from error
    changed = {id(tensor) for tensor in new.values()}
    for name, layer in found.named_modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if any(id(tensor) in changed for tensor in own):
            try:
                _resize(layer)
            except ValueError as error:
                raise Refused(f"structure: {name} ({type(layer).__name__}) can't be shrunk to it: {error}") from error
    return found


def _as(whole: Tensor, small: Tensor) -> Tensor:
    return nn.Parameter(small, whole.requires_grad) if isinstance(whole, nn.Parameter) else small


def _resize(layer: nn.Module) -> None:
    """Gives a layer the sizes of its tensors. Raises ValueError if these don't fit each other."""
    if isinstance(layer, _ConvNd):
        _resize_convolution(layer)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
        _biases(layer.bias, layer.out_features)
    elif isinstance(layer, _NormBase):
        parts = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
        layer.num_features = _one_length([part for part in parts if part is not None])
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
        bias = getattr(layer, "bias", None)
        if bias is not None and bias.shape != layer.weight.shape:
            raise ValueError(f"its bias has the shape {list(bias.shape)}, its weight {list(layer.weight.shape)}")
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    elif isinstance(layer, nn.MultiheadAttention):
        with_heads(layer)
    elif type(layer).__module__.startswith("torch.nn."):
        raise ValueError("there is no rule for the sizes of such a layer")


def _resize_convolution(layer: _ConvNd) -> None:
    rows, columns = layer.weight.shape[:2]
    if layer.groups > 1 and layer.groups == layer.in_channels:  # depthwise: as many groups as inputs
        outputs = layer.out_channels // layer.in_channels
        layer.groups = rows if layer.transposed else rows // outputs
        if not layer.transposed and rows % outputs:
            raise ValueError(f"{rows} outputs are not {outputs} of each input")
    if rows % layer.groups:
        raise ValueError(f"{rows} rows can't be divided among {layer.groups} groups")
    sizes = (rows, columns * layer.groups)
    layer.in_channels, layer.out_channels = sizes if layer.transposed else sizes[::-1]
    _biases(layer.bias, layer.out_channels)


def _biases(bias: Tensor | None, outputs: int) -> None:
    if bias is not None and len(bias) != outputs:
        raise ValueError(f"it has {outputs} outputs and {len(bias)} biases")


def _one_length(parts: list[Tensor]) -> int:
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"its parameters have {' and '.join(map(str, sorted(lengths)))} elements")
    return lengths.pop()
