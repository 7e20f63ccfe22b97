"""What a network costs where it is stored and run: the budgets of `structure=channels`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

from torch import nn

from lottery.pruning.channels.tracing import Run
from lottery.pruning.prunable import Prunable
from lottery.training.flops import by_weight
from lottery.training.state_files import content, state_once

Passes = Sequence[tuple[Run, int]]
"""How a network is evaluated: functions that run it on some examples, and how many they are."""


def parameters(net: nn.Module, passes: Passes) -> int:
    """The number of parameters; one that several layers share counts once."""
    return sum(weight.numel() for weight in net.parameters())


def multiply_adds(net: nn.Module, passes: Passes) -> int:
    """Multiply-adds of all passes of one example: convolutions and matrix products, as `by_weight` counts them."""
    twin = copy.deepcopy(net).eval().requires_grad_(False)  # so that a forward pass alone is counted
    return round(sum(by_weight(twin, partial(run, twin), Prunable(), many)[""] for run, many in passes) / 2)


def file_bytes(net: nn.Module, passes: Passes) -> int:
    """Bytes of a safetensors file with weights and buffers."""
    return len(content(state_once(net)))


COSTS = {"parameters": parameters, "flops": multiply_adds, "bytes": file_bytes}
"""By the name of a budget, a function of a network and of how it is evaluated."""
