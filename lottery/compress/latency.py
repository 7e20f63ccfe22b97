"""Latency: how long forward passes of several networks take on this machine, measured in turns."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lottery.compress.contents import Example, batch_of, rows_of, shape_of

FEWEST = 6
"""Turns below which no two of them enclose the median with 95 %."""


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % interval."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Seconds that one forward pass of a network took, one value a turn."""

    network: str
    batch: int
    threads: int
    calls: int
    """forward passes in a turn, of which a value is the mean"""
    seconds: tuple[float, ...]

    @property
    def interval(self) -> Interval:
        """The median over turns with its 95 % interval."""
        return median(self.seconds)


def latencies(
    nets: Mapping[str, nn.Module],
    example: Example,
    batches: Sequence[int] = (1, 64),
    threads: int = 1,
    turns: int = 21,
    block: float = 0.02,
) -> list[Latency]:
    """Times each network at each batch size, in evaluation mode and without gradients.

    A turn times every network once, for at least `block` seconds; every second turn goes backwards, so that a machine
    that slows down slows all. Examples are those of the batch, anew from its first where there are too few. Networks
    should lie where the example does. The interval holds for what this machine did in this minute.
    Raises ValueError for a setting out of range, and for a network that fails on the batch.
    """
    if not nets:
        raise ValueError("nets={}: must name at least one network")
    counts = [("batches", batch, 1) for batch in batches]
    for name, value, least in (("threads", threads, 1), ("turns", turns, FEWEST), *counts):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    batch_of(example)
    found: list[Latency] = []
    with torch.inference_mode(), ExitStack() as stack:
        for net in nets.values():
            stack.enter_context(evaluating(net))
        for batch in batches:
            inputs = rows_of(example, batch)
            timers = {name: _timer(name, net, inputs, threads) for name, net in nets.items()}
            calls = {name: max(1, math.ceil(block / timer.timeit(1).mean)) for name, timer in timers.items()}
            seconds: dict[str, list[float]] = {name: [] for name in nets}
            for turn in range(turns):
                for name in list(nets)[:: -1 if turn % 2 else 1]:
                    seconds[name].append(timers[name].timeit(calls[name]).mean)
            found += [Latency(name, batch, threads, calls[name], tuple(seconds[name])) for name in nets]
    return found


def median(values: Sequence[float]) -> Interval:
    """The median and two of the values that enclose it in 95 % of samples or more, whatever their distribution.

    Raises ValueError for fewer than six values.

    >>> median([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    Interval(middle=3.5, low=1.0, high=6.0)
    """
    count, ordered = len(values), sorted(values)
    if count < FEWEST:
        raise ValueError(f"{count} values: at least {FEWEST} are needed for a 95 % interval of their median")
    rank = int(binom.ppf(0.025, count, 0.5))  # of the lower end, counted from 1
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Interval(middle, ordered[rank - 1], ordered[count - rank])


def realised(dense: Latency, other: Latency) -> Interval:
    """The realised speedup: seconds of the dense network over those of another, turn by turn.

    Over the theoretical speedup, `Sizes.speedup`, it is the share of the saving that arrives on this machine.
    Raises ValueError for latencies of different runs.
    """
    for what in ("batch", "threads"):
        if getattr(dense, what) != getattr(other, what):
            raise ValueError(
                f"{other.network}: was timed at {what}={getattr(other, what)}, "
                f"{dense.network} at {what}={getattr(dense, what)}; a speedup needs the same of both"
            )
    if len(dense.seconds) != len(other.seconds):
        raise ValueError(f"{other.network}: has {len(other.seconds)} turns and {dense.network} {len(dense.seconds)}")
    return median([ours / theirs for ours, theirs in zip(dense.seconds, other.seconds, strict=True)])


def csr(net: nn.Module) -> nn.Module | None:
    """A copy, in evaluation mode, whose linear layers with zeros hold their weights in PyTorch's CSR format.

    None if none has zeros, or if other layers have, which would stay as slow: convolutions, subclasses of `nn.Linear`,
    layers with hooks. The copy is for inference: its state holds sparse tensors.
    """
    twin = copy.deepcopy(net).eval()
    layers = {
        name: layer
        for name, layer in twin.named_modules()
        if isinstance(weight := getattr(layer, "weight", None), Tensor) and weight.ndim > 1 and not weight.all()
    }
    hooked = [layer for layer in layers.values() if layer._forward_hooks or layer._forward_pre_hooks]
    if not layers or hooked or any(type(layer) is not nn.Linear for layer in layers.values()):
        return None
    if "" in layers:
        return _Csr(layers[""])
    for name, layer in layers.items():
        twin.set_submodule(name, _Csr(layer))
    return twin


class _Csr(nn.Module):
    """A linear layer, its weight (out, in) in CSR format."""

    weight: Tensor
    column: Tensor

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.detach()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*beta state.*")  # PyTorch warns of every CSR tensor
            self.register_buffer("weight", weight.to_sparse_csr())
        bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        self.register_buffer("column", bias.clone()[:, None])

    def forward(self, inputs: Tensor) -> Tensor:
        # the sparse factor first: with it second, as in nn.functional.linear, this takes several times as long
        outputs = torch.addmm(self.column, self.weight, inputs.flatten(0, -2).T if inputs.ndim > 1 else inputs[:, None])
        return outputs.T.reshape(*inputs.shape[:-1], -1)


def _timer(name: str, net: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Timer:
    try:
        net(*inputs)
    except Exception as error:
        raise ValueError(f"{name}: fails on a batch of shape {shape_of(inputs)}: {error}") from error
    return Timer("net(*inputs)", globals={"net": net, "inputs": inputs}, num_threads=threads)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Within the context, a network is in evaluation mode."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
