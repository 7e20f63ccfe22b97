"""Masks: boolean tensors that mark the weights a network keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]
"""Boolean tensors by parameter name, shaped like the weights; True = kept."""

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""The layers whose weights are pruned by default; `lottery.training.flops` counts what each of them costs."""


def prunable(net: nn.Module) -> dict[str, Tensor]:
    """The weights that are pruned by default: those of linear and convolutional layers.

    They come in order of definition, without biases and normalisation parameters; a weight shared by two layers counts
    once, under its first name; where that is of a layer of another type, as of an embedding, it is not among them. A
    frozen weight (`requires_grad=False`) is pruned like any other: it is set to zero or keeps its value, but is never
    trained.
    """
    layers = {name for name, layer in net.named_modules() if isinstance(layer, LAYERS)}
    weights = {f"{name}.weight".removeprefix(".") for name in layers}
    return {name: parameter for name, parameter in net.named_parameters() if name in weights}


def whole(net: nn.Module) -> dict[str, Tensor]:
    """Weights of two or more dimensions that are not pruned by default, since their layer is of another type.

    >>> list(whole(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))))
    ['0.weight']
    """
    pruned = prunable(net)
    return {name: weight for name, weight in net.named_parameters() if weight.ndim > 1 and name not in pruned}


def nothing_to_prune(net: nn.Module) -> str:
    """The error message for a network without prunable weights.

    >>> nothing_to_prune(nn.Flatten())
    'it has no linear or convolutional layer, so there is nothing to prune'
    """
    if left := whole(net):
        return (
            "there is nothing to prune: only weights that are parameters of linear and convolutional layers themselves "
            f"can be pruned, and its own are {some(left)}; prune.include names further weights"
        )
    return "it has no linear or convolutional layer, so there is nothing to prune"


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def dense(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep every weight.

    >>> density(dense({"fc.weight": torch.zeros(2, 3)}))
    1.0
    """
    return {name: torch.ones_like(weight, dtype=torch.bool, device="cpu") for name, weight in weights.items()}


def kept(masks: Mapping[str, Tensor]) -> int:
    """The number of kept weights."""
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def density(masks: Mapping[str, Tensor]) -> float:
    """Kept share of the prunable weights, in [0, 1].

    >>> density({"fc.weight": torch.tensor([True, False, False, True])})
    0.5
    """
    return kept(masks) / sum(mask.numel() for mask in masks.values())


def layer_densities(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Kept share of each layer's weights, in [0, 1]."""
    return {name: density({name: mask}) for name, mask in masks.items()}


def apply_(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Sets the pruned entries of `tensors` to zero, in place; tensors without a mask stay unchanged."""
    with torch.no_grad():
        for name, mask in masks.items():
            tensors[name].mul_(mask.to(tensors[name].device))


def shuffled(masks: Mapping[str, Tensor], rng: torch.Generator) -> Masks:
    """The same number of kept weights in each layer at random positions (Frankle & Carbin 2019, appendix)."""
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=rng)].view_as(mask) for name, mask in masks.items()
    }


_WEIGHT_OF_BIT = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def pack(mask: Tensor) -> Tensor:
    """A mask as a flat uint8 tensor, eight weights per byte, lowest bit first; the last byte is padded with zeros."""
    bits = torch.zeros(-(-mask.numel() // 8) * 8, dtype=torch.uint8)
    bits[: mask.numel()] = mask.flatten()
    return (bits.view(-1, 8) * _WEIGHT_OF_BIT).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, shape: Iterable[int]) -> Tensor:
    """The inverse of `pack`: a mask of the given shape.

    >>> unpack(pack(torch.tensor([[True, False, True]])), (1, 3))
    tensor([[ True, False,  True]])
    """
    shape = torch.Size(shape)
    bits = (packed[:, None] & _WEIGHT_OF_BIT).ne(0).flatten()
    return bits[: shape.numel()].view(shape).clone()
