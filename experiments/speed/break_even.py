"""Where a linear layer trains faster on its kept values alone: shapes and densities, each layer's step by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row
from lottery.training import kernels, sparse
from lottery.training.holding import Holding

SHAPES = ((128, 128), (300, 100), (256, 256), (784, 300), (784, 512), (1024, 1024))
"""(inputs, outputs); layers of 784 inputs are the first, which hand no gradient on"""
DENSITIES = (0.02, 0.09, 0.11, 0.19, 0.25, 0.3, 0.4)
BATCH, PAIRS, SECONDS = 60, 7, 0.02
NAME = "0.weight"


def measure() -> Iterator[Row]:
    """For each shape the ratios of a sparse step to a masked dense one, medians, one for each density."""
    for shape in SHAPES:
        found = []
        for density in DENSITIES:
            thin, dense = (step(shape, kept(shape, density), sparsely) for sparsely in (True, False))
            calls = max(3, int(SECONDS / max(1e-6, cpu_seconds(partial(often, dense, 3)) / 3)))
            one, other = (partial(cpu_seconds, partial(often, work, calls)) for work in (thin, dense))
            found.append(sorted(turns(one, other, PAIRS))[PAIRS // 2])
        what = f"A layer of {shape[0]} to {shape[1]}, batch {BATCH}: its step, sparse over dense, at "
        yield Row(what + ", ".join(f"{each:.0%}" for each in DENSITIES), ", ".join(f"{each:.2f}" for each in found))


def often(work: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        work()


def kept(shape: tuple[int, int], density: float) -> Tensor:
    """A random mask of the layer's weight, (outputs, inputs)."""
    inputs, outputs = shape
    mask = torch.zeros(outputs * inputs, dtype=torch.bool)
    order = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(0))
    mask[order[: int(density * mask.numel())]] = True
    return mask.view(outputs, inputs)


def step(shape: tuple[int, int], mask: Tensor, sparsely: bool) -> Callable[[], None]:
    """Forward, backward, Adam's update and, where the layer is dense, its mask."""
    net = nn.Sequential(nn.Linear(*shape))
    names = (NAME,) if sparsely else ()
    sparse.install(net, {NAME: mask}, names)
    holding = Holding(net, {NAME: mask}, across=False, elsewhere=names)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    inputs = torch.randn(BATCH, shape[0]).requires_grad_(shape[0] != 784)
    gradient, parameters = torch.randn(BATCH, shape[1]), list(net.parameters())

    def backward() -> None:
        for tensor in (*parameters, inputs):
            tensor.grad = None
        net(inputs).backward(gradient)

    backward()
    optimizer.step()
    update = kernels.prepared(optimizer)

    def whole() -> None:
        backward()
        update()
        holding.mask_weights()

    return whole
