"""What smaller files of a network hold: its kept values alone, or its weights in eight bits; a state restored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lottery.pruning.masks import LAYERS, Masks, pack, some
from lottery.training.state_files import state_once


def kept_values(tensors: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """The same with each masked tensor as its kept values alone, and its mask at one bit a weight.

    A ticket's file has the same masks, but the start values of pruned weights too, since controls need them.

    >>> kept_values({"weight": torch.tensor([3.0, 0.0, 4.0])}, {"weight": torch.tensor([True, False, True])})
    {'weight': tensor([3., 4.]), 'mask.weight': tensor([5], dtype=torch.uint8)}
    """
    values = {name: tensor[masks[name].cpu()] if name in masks else tensor for name, tensor in tensors.items()}
    return values | {f"mask.{name}": pack(mask.cpu()) for name, mask in masks.items()}


def eight_bits(net: nn.Module) -> dict[str, Tensor]:
    """The state with weights of linear and convolutional layers as int8, one scale for each output.

    Symmetric rounding: a weight is about its integer times its scale. Nothing is calibrated or trained, and what
    accuracy is left is not known: this says how many bytes there would be. Grouped transposed convolutions have a scale
    for each output of a group. A tensor that is no weight of such a layer, and every bias, keeps its type.
    """
    tensors = state_once(net)
    for path, layer in net.named_modules():
        name = f"{path}.weight".removeprefix(".")
        if isinstance(layer, LAYERS) and name in tensors and tensors[name].is_floating_point():
            weight = tensors[name]
            others = [axis for axis in range(weight.ndim) if axis != int(getattr(layer, "transposed", False))]
            scale = weight.abs().amax(others, keepdim=True).float() / 127
            tensors[name] = (weight / scale.where(scale > 0, 1)).round().to(torch.int8)
            tensors[f"{name}.scale"] = scale.flatten()
    return tensors


def restore_(net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Gives a network the tensors of `state_once`, all of them. Raises ValueError if names, shapes or types differ."""
    own = state_once(net)
    if names := sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"{where}: does not fit this network; only one of the two has {some(names)}")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise ValueError(
                f"{where}: does not fit this network; {name} is {_kind(tensor)} in the file and {_kind(own[name])} here"
            )
    net.load_state_dict(dict(tensors), strict=False)  # other names of shared tensors are not there
    return net


Example = Tensor | tuple[Tensor, ...]
"""What a network is given: a tensor, or several, with as many examples along the first dimension of each."""


def batch_of(example: Example) -> tuple[Tensor, ...]:
    """The tensors of a batch. Raises ValueError if it is none."""
    found = example if isinstance(example, tuple) else (example,)
    for each in found:
        if not isinstance(each, Tensor) or each.ndim < 1 or not len(each):
            kind = f"a tensor of shape {tuple(each.shape)}" if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"example: must be a batch, a tensor with at least one example, not {kind}")
    if len({len(each) for each in found}) != 1:
        raise ValueError(f"example: must have as many examples in each tensor, not the shapes {shape_of(found)}")
    return found


def rows_of(example: Example, count: int) -> tuple[Tensor, ...]:
    """The first `count` examples of a batch, which begins anew where it has fewer.

    >>> [rows.tolist() for rows in rows_of(torch.tensor([[1], [2]]), 3)]
    [[[1], [2], [1]]]
    """
    return tuple(each[torch.arange(count, device=each.device) % len(each)] for each in batch_of(example))


def shape_of(batch: tuple[Tensor, ...]) -> str:
    """
    >>> shape_of((torch.zeros(2, 3), torch.zeros(2)))
    '(2, 3) and (2,)'
    """
    return " and ".join(str(tuple(each.shape)) for each in batch)


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
