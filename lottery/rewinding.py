"""Rewinding: what the kept weights are set to before a pruned network trains again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""Weights and buffers of a network by name, on the CPU."""


@dataclass(frozen=True)
class Origin:
    """All that a round's first weights may be made of; new fields never break old rules."""

    start: State
    """the dense network at the rewinding point"""
    trained: Callable[[], State]
    """gives the network at the end of the round before"""
    fresh: Callable[[], State]
    """gives a new draw of the initialisation"""


Rewinding = Callable[[Origin], State]


def to_start(origin: Origin) -> State:
    """Back to the rewinding point: the lottery ticket (Frankle & Carbin 2019; to step k: Frankle et al. 2020)."""
    return origin.start


def to_fresh(origin: Origin) -> State:
    """A new draw of the initialisation: the control of Frankle & Carbin 2019."""
    return origin.fresh()


def state_of(net: nn.Module) -> State:
    """A copy of the network's weights and buffers, on the CPU, row by row in memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in net.state_dict().items()
    }
