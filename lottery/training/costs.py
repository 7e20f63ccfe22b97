"""What a network costs where it is stored and run: the budgets of `structure=channels`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from torch import nn

from lottery.foundations.errors import Refused
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channels.removal import Kept, half, shapes, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.channels.tracing import Run
from lottery.pruning.prunable import Prunable
from lottery.training.flops import at_densities, by_weight
from lottery.training.state_files import content, content_size, state_once

Passes = Sequence[tuple[Run, int]]
"""How a network is evaluated: functions that run it on some examples, and how many they are."""

Shapes = Mapping[str, Sequence[int]]
"""Of parameters and buffers by name."""


def parameters(net: nn.Module, passes: Passes) -> int:
    """The number of parameters; one that several layers share counts once."""
    return sum(weight.numel() for weight in net.parameters())


def multiply_adds(net: nn.Module, passes: Passes) -> int:
    """Multiply-adds of all passes of one example: convolutions and matrix products, as `by_weight` counts them."""
    return round(sum(counted[""] for counted in _counted(net, passes)) / 2)


def file_bytes(net: nn.Module, passes: Passes) -> int:
    """Bytes of a safetensors file with weights and buffers."""
    return len(content(state_once(net)))


COSTS = {"parameters": parameters, "flops": multiply_adds, "bytes": file_bytes}
"""By the name of a budget, a function of a network and of how it is evaluated."""


class Costs:
    """What a network costs without some of its channels, by the name of a budget: a function of its shapes.

    Networks are made and counted only where that is not so. It is found out once, without half of the channels: there a
    layer that is called at fewer places, or a product of no layer of its own, gives another number.
    """

    def __init__(self, net: nn.Module, coupling: Coupling, passes: Passes) -> None:
        self.net, self.coupling, self.passes = net, coupling, passes
        self.whole = {name: tuple(t.shape) for name, t in (*net.named_parameters(), *net.named_buffers())}
        self._by_shapes = cache(self._tried)

    def of(self, budget: str, kept: Kept) -> int:
        """The cost of the network whose groups keep these channels. Raises Refused as `structure` does."""
        counts = self._by_shapes(budget)
        return counts(shapes(self.coupling, kept, self.whole)) if counts else self._made(budget, kept)

    def _made(self, budget: str, kept: Kept) -> int:
        return COSTS[budget](shrunk(self.net, structure(self.coupling, kept)), self.passes)

    def _tried(self, budget: str) -> Callable[[Shapes], int] | None:
        counts, kept = _COUNTS[budget](self.net, self.passes), half(self.coupling.groups)
        try:
            agrees = counts(shapes(self.coupling, kept, self.whole)) == self._made(budget, kept)
        except (KeyError, Refused):
            return None
        return counts if agrees else None


def _parameters(net: nn.Module, passes: Passes) -> Callable[[Shapes], int]:
    names = [name for name, _ in net.named_parameters()]
    return lambda left: sum(math.prod(left[name]) for name in names)


def _multiply_adds(net: nn.Module, passes: Passes) -> Callable[[Shapes], int]:
    """A layer that is called at the same places costs in proportion to its weight."""
    counted, sizes = _counted(net, passes), {name: weight.numel() for name, weight in net.named_parameters()}

    def count(left: Shapes) -> int:
        shares = {name: math.prod(left[name]) / max(1, size) for name, size in sizes.items()}
        return round(sum(at_densities(each, shares).scaled for each in counted) / 2)

    return count


def _file_bytes(net: nn.Module, passes: Passes) -> Callable[[Shapes], int]:
    tensors = state_once(net)
    types, own = {name: t.dtype for name, t in tensors.items()}, {name: t.shape for name, t in tensors.items()}
    return lambda left: content_size({name: left.get(name, shape) for name, shape in own.items()}, types)


_COUNTS = {"parameters": _parameters, "flops": _multiply_adds, "bytes": _file_bytes}


def _counted(net: nn.Module, passes: Passes) -> list[dict[str, float]]:
    twin = copy.deepcopy(net).eval().requires_grad_(False)  # so that a forward pass alone is counted
    return [by_weight(twin, partial(run, twin), Prunable(), many) for run, many in passes]
