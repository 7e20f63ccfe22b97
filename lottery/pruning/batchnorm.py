"""BatchNorm's running statistics: measured anew as averages over batches, and passed over where there are none yet."""

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


@contextmanager
def as_training_begins(net: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorm that has no statistics yet normalises by the batch at hand, as in training.

    In evaluation mode its mean of 0 and variance of 1 would leave signals as they are, so that a deep network's loss
    and gradients are not those with which its training begins. It has none if no batch has moved them: files from
    before batches were counted hold statistics and a count of 0. No statistics change. Those that are exchanged between
    processes stay as they are, since a criterion may be asked in one process alone.
    """
    untrained = [layer for layer in norms(net) if not layer.training and _as_drawn(layer)]
    for layer in untrained:
        layer.training, layer.track_running_stats = True, False  # so that no running statistics are written either
    try:
        yield
    finally:
        for layer in untrained:
            layer.training, layer.track_running_stats = False, True


def _as_drawn(layer: _BatchNorm) -> bool:
    mean, variance, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
    if isinstance(layer, nn.SyncBatchNorm) or mean is None or variance is None or count is None:
        return False
    return not count and not mean.any() and bool((variance == 1).all())


def measure_statistics(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Recomputes BatchNorm's running mean and variance as averages over batches; does nothing without BatchNorm."""
    if not (layers := norms(net)):
        return
    with averaging(net, layers), torch.inference_mode():
        for part in inputs:
            net(part)
