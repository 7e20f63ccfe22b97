"""The sizes that layers keep as numbers: those of their tensors once channels are removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lottery.pruning.channels.attention import check_heads, with_heads

SIZED = (_ConvNd, _NormBase, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.PReLU, nn.Embedding, nn.MultiheadAttention)
"""The layers of PyTorch with parameters whose sizes can be changed."""


def resizable(layer: nn.Module) -> bool:
    """Whether a layer works with fewer channels; one of a user's own may, as far as can be told from its class.

    >>> resizable(nn.Linear(2, 2)), resizable(nn.ReLU()), resizable(nn.LSTM(2, 2))
    (True, True, False)
    """
    theirs = next(each for each in type(layer).__mro__ if each.__module__.startswith("torch.nn."))
    contains = theirs is nn.Module or theirs.__module__ == "torch.nn.modules.container"
    return contains or isinstance(layer, SIZED) or next(layer.parameters(recurse=False), None) is None


def resize(layer: nn.Module) -> None:
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
    elif not resizable(layer):
        raise ValueError("there is no rule for the sizes of such a layer")


def check_rows(layer: nn.Module, kept: Sequence[int]) -> None:
    """Raises ValueError unless a layer can keep these rows of its weight.

    Of a grouped convolution these are as many of each group, in a depthwise one of each that is left; of attention
    whole heads.
    """
    if isinstance(layer, nn.MultiheadAttention):
        check_heads(layer, kept)
    elif isinstance(layer, _ConvNd):
        _check_groups(layer, kept)


def _check_groups(layer: _ConvNd, kept: Sequence[int]) -> None:
    size = layer.weight.shape[0] // layer.groups
    counts = Counter(row // size for row in kept)
    depthwise = layer.groups == layer.in_channels
    if len(set(counts.values())) > 1 or (not depthwise and len(counts) < layer.groups):
        most, least = max(counts.values()), min(counts[group] for group in range(layer.groups))
        raise ValueError(f"it keeps {most} rows of one group and {least} of another")


def _resize_convolution(layer: _ConvNd) -> None:
    rows, columns = layer.weight.shape[:2]
    if layer.groups > 1 and layer.groups == layer.in_channels:  # depthwise: as many groups as inputs
        outputs = layer.out_channels // layer.in_channels
        layer.groups = rows if layer.transposed else rows // outputs
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
