"""Files of a network: its whole state, each tensor once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lottery.foundations.digests import digest_of
from lottery.foundations.files import file_size, tensor_file
from lottery.pruning.masks import some


def state_once(net: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers on the CPU; a tensor that several layers share is there once, under its first name.

    Raises ValueError for a state that is not made of dense tensors.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> net[1].weight = net[0].weight
    >>> list(state_once(net))
    ['0.weight', '0.bias', '1.bias']
    """
    state = net.state_dict()
    own = {name for name, _ in net.named_parameters()} | {name for name, _ in net.named_buffers()}
    aliases = {name for name, _ in _named(net)} - own
    found = {name: tensor for name, tensor in state.items() if name not in aliases}
    if odd := [name for name, tensor in found.items() if not _plain(tensor)]:
        raise ValueError(f"the network's state holds {some(odd)}, which is no dense tensor, so no file can hold it")
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}


def content(tensors: Mapping[str, Tensor], structure: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file with a digest of the structure of the network that the tensors are of."""
    return tensor_file(tensors, _info(structure))


def content_size(shapes: Mapping[str, Sequence[int]], types: Mapping[str, torch.dtype]) -> int:
    """The length of `content` for tensors of these shapes and types. Raises KeyError for a type that is rare."""
    return file_size(shapes, types, _info(None))


def _info(structure: Mapping[str, Any] | None) -> dict[str, str]:
    return {"structure": digest_of(structure or {})}


def _named(net: nn.Module) -> list[tuple[str, Tensor]]:
    both = (net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False))
    return [pair for pairs in both for pair in pairs]


def _plain(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided
