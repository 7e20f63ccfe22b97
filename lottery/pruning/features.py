"""Feature maps: what the units of a layer hand on, after the BatchNorm and the activation function that follow it.

A unit is a neuron of a linear layer or a filter of a convolution. Its map is the layer's output, or what functions that
treat each unit by itself make of it, one after another, as long as nothing else reads what lies in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lottery.pruning.calls import given, holders

FOLLOWED = {
    *("batch_norm", "celu", "dropout", "dropout1d", "dropout2d", "dropout3d", "elu", "gelu", "hardsigmoid"),
    *("hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu"),
    *("sigmoid", "silu", "softplus", "softsign", "tanh"),
}
"""The functions of PyTorch that a map is followed through, by name; those in place too."""

See = Callable[[Tensor, int], tuple[Any, Tensor]]
"""Is given a map and the dimension of its units; gives what it saw, and what the network goes on with."""


@contextmanager
def followed(net: nn.Module, names: Iterable[str], see: See) -> Iterator[dict[str, list[Chain]]]:
    """Within the context, the chains of maps of each call of a layer, by the name of its weight, in order.

    `see` is called at once for every map of a chain, since it may be changed in place afterwards.
    """
    following = _Following(see)
    with ExitStack() as stack:
        for name, layer in holders(net, names):
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                axis = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.ndim

                def begin(_: nn.Module, __: Any, output: Tensor, name: str = name, axis: int = axis) -> Tensor:
                    return following.begin(name, output, axis)

                stack.callback(layer.register_forward_hook(begin).remove)
        stack.enter_context(following)
        yield following.chains


@dataclass
class Chain:
    """The maps that follow one another from a call of a layer on."""

    axis: int
    """the dimension of units, counted from the end"""
    seen: list[Any] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    """how many operations read each map"""

    @property
    def last(self) -> Any:
        """What was seen of the last map before one that more than one operation, or none, reads."""
        return next((seen for seen, reads in zip(self.seen, self.reads, strict=True) if reads != 1), self.seen[-1])


class _Following(TorchFunctionMode):
    """Sees each function of PyTorch that is called, and what it is given."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see
        self.chains: dict[str, list[Chain]] = {}
        # the tensors are kept, so that no identity is used twice
        self.at: dict[int, tuple[Tensor, Chain, int]] = {}

    def begin(self, name: str, output: Tensor, axis: int) -> Tensor:
        chain = Chain(axis)
        self.chains.setdefault(name, []).append(chain)
        return self._put(chain, output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = given(args, kwargs)
        read = {id(each): self.at[id(each)] for each in tree_leaves((args, kwargs)) if id(each) in self.at}
        chain = read[id(first)][1] if id(first) in read else None
        if chain and not _by_itself(func, first, chain.axis):
            chain = None
        place = first if chain and _in_place(func, kwargs) else None
        if place is not None:  # a copy is changed, for derivatives may need what the function gave, as it gave it
            args, kwargs = ((place.clone(), *args[1:]), kwargs) if args else ((), {**kwargs, "input": place.clone()})
        found = func(*args, **kwargs)
        if _computed(found):
            for _, each, index in read.values():
                each.reads[index] += 1
            if chain:
                return self._put(chain, found, place)
        return found

    def _put(self, chain: Chain, found: Tensor, place: Tensor | None = None) -> Tensor:
        """Adds a map to a chain; `place` is the tensor to overwrite with it, which a network may go on with."""
        seen, passed = self.see(found, chain.axis)
        if place is not None:
            passed = place.copy_(passed)
        self.at[id(passed)] = passed, chain, len(chain.seen)
        chain.seen.append(seen)
        chain.reads.append(0)
        return passed


def _by_itself(func: Any, feature: Tensor, axis: int) -> bool:
    """Whether a function treats each unit by itself; BatchNorm's channels are its second dimension."""
    name = getattr(func, "__name__", "").rstrip("_")
    return name in FOLLOWED and (name != "batch_norm" or feature.ndim + axis == 1)


def _in_place(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function overwrites what it is given; those of `torch.nn.functional` hand the flag on by its name."""
    return getattr(func, "__name__", "").endswith("_") or bool(kwargs.get("inplace"))


def _computed(found: Any) -> bool:
    """Whether a function gave tensors, and not a shape, a type or a number of dimensions."""
    return isinstance(found, Tensor) or (isinstance(found, tuple | list) and any(isinstance(e, Tensor) for e in found))


def by_unit(feature: Tensor, axis: int) -> Tensor:
    """A map as (examples, units, positions); one without a dimension before that of the units is of one example.

    >>> by_unit(torch.zeros(8, 3, 5, 5), -3).shape, by_unit(torch.zeros(8, 7, 3), -1).shape
    (torch.Size([8, 3, 25]), torch.Size([8, 3, 7]))
    """
    whole = feature[None] if feature.ndim == -axis else feature
    return whole.movedim(axis, 1).reshape(len(whole), whole.shape[axis], -1)


class Gate(NamedTuple):
    """A gate of one for each example and unit of a map."""

    tensor: Tensor
    units: int
    positions: int


def gated(feature: Tensor, axis: int) -> tuple[Gate, Tensor]:
    """The gates of a map, and the map times them, which is the same.

    The derivative in a gate is the sum over positions of activation x gradient (Molchanov et al. 2016).
    """
    shape = [1] * feature.ndim
    shape[axis] = feature.shape[axis]
    if feature.ndim > -axis:
        shape[0] = len(feature)
    gate = torch.ones(shape, dtype=feature.dtype, device=feature.device, requires_grad=True)
    return Gate(gate, shape[axis], feature.numel() // max(1, gate.numel())), feature * gate


def without_units(net: nn.Module, name: str, units: Iterable[int], run: Callable[[], Tensor]) -> list[Tensor]:
    """What a run of a network gives when the map of a single unit is set to zero, for each of some units of a layer.

    The maps of all calls of the layer are. Nothing is differentiated. Raises ValueError for a layer whose outputs can't
    be seen.
    """
    with torch.no_grad():
        numbers = count()
        with followed(net, [name], lambda feature, axis: (next(numbers), feature)) as chains:
            run()
        if not chains:
            raise ValueError(unseen(name))
        last = {chain.last for chain in chains[name]}  # maps after these are others' too, or no longer a unit's own
        found = []
        for unit in units:
            with followed(net, [name], _silencing(unit, last)):
                found.append(run())
    return found


def _silencing(unit: int, which: set[int]) -> See:
    """Sets a unit to zero in the maps of some numbers, in the order in which they come."""
    numbers = count()

    def silence(feature: Tensor, axis: int) -> tuple[None, Tensor]:
        if next(numbers) in which:
            feature.select(axis, unit).zero_()
        return None, feature

    return silence


def unseen(name: str) -> str:
    """What is said of a weight whose layer's outputs can't be seen."""
    return (
        f"the outputs that {name} makes can't be seen: its layer is no linear layer or convolution, or is not called "
        f"itself; prune.exclude leaves it out, and another criterion needs no outputs"
    )
