"""Networks that have not been trained: BatchNorm without statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorm that has seen no batch normalises by the batch at hand, as in training.

    In evaluation mode its mean of 0 and variance of 1 would leave signals as they are, so that a deep network's loss
    and gradients are not those with which its training begins. No statistics change. Those that are exchanged between
    processes stay as they are, since a criterion may be asked in one process alone.
    """
    untrained = [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and not module.training
        if module.track_running_stats and module.num_batches_tracked is not None and not module.num_batches_tracked
    ]
    for module in untrained:
        module.training, module.track_running_stats = True, False  # so that no running statistics are written either
    try:
        yield
    finally:
        for module in untrained:
            module.training, module.track_running_stats = False, True
