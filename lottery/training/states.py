"""States: weights and buffers of a network by name."""

from __future__ import annotations

from collections.abc import Mapping

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


def position(state: Mapping[str, Tensor]) -> State:
    """Where a training stood at a state; empty for our own modules, whose training is a function of the step."""
    return {name: tensor for name, tensor in state.items() if name.startswith(BESIDE)}
