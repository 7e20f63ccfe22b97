"""States: weights and buffers of a network by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""Weights and buffers of a network by name, on the CPU; for a Lightning project also where its training stood."""

BESIDE = "@"
"""What names in a state begin with that are of neither weight nor buffer, but of where a training stood."""


def state_of(net: nn.Module) -> State:
    """A copy of the network's weights and buffers, on the CPU, contiguous in memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in net.state_dict().items()
    }


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state or of masks, for code that may work in place."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def weights(state: Mapping[str, Tensor]) -> State:
    """The weights and buffers of a state, as `load_state_dict` takes them."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(BESIDE)}


class Later(Mapping[str, Tensor]):
    """A state that is looked for when it is first read; `find` may raise Refused, to whoever reads it."""

    def __init__(self, find: Callable[[], Mapping[str, Tensor]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> Mapping[str, Tensor]:
        return self._find()

    def __getitem__(self, name: str) -> Tensor:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def placed(state: Mapping[str, Tensor], device: str) -> Mapping[str, Tensor]:
    """A copy of a state's weights and buffers on a device, for code that may work in place; of a late one, late."""

    def copy() -> State:
        return {name: tensor.to(device, copy=True) for name, tensor in weights(state).items()}

    return Later(copy) if isinstance(state, Later) else copy()


def position(state: Mapping[str, Tensor]) -> State:
    """Where a training stood at a state; empty for our own modules, whose training is a function of the step."""
    return {name: tensor for name, tensor in state.items() if name.startswith(BESIDE)}
