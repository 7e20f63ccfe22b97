"""BatchNorm's running statistics, measured anew as averages over batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms(net: nn.Module) -> list[_BatchNorm]:
    """The layers of a network that have running statistics."""
    found = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    return [module for module in found if module.track_running_stats and module.running_mean is not None]


@contextmanager
def averaging(net: nn.Module, layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Within the context these layers average over what passes through them, every call with the same weight.

    All others are in evaluation mode, so that dropout does not distort the statistics. A layer that nothing passes
    through has its statistics back afterwards.
    """
    usual = [(layer, layer.momentum, {n: each.clone() for n, each in layer.named_buffers()}) for layer in layers]
    net.eval()
    for layer, *_ in usual:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    try:
        yield
    finally:
        for layer, momentum, buffers in usual:
            layer.momentum = momentum
            if not layer.num_batches_tracked:
                layer.load_state_dict(buffers, strict=False)


def measure_statistics(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Recomputes BatchNorm's running mean and variance as averages over batches; does nothing without BatchNorm."""
    if not (layers := norms(net)):
        return
    with averaging(net, layers), torch.inference_mode():
        for part in inputs:
            net(part)
