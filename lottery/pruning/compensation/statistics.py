"""Compensations that measure again: BatchNorm's statistics under the masks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lottery.pruning.compensation.contracts import Pruned


def batch_norm(pruned: Pruned, batches: int = 16) -> dict[str, Tensor]:
    """BatchNorm's running mean and variance, measured anew under the masks over the first batches (Li et al. 2020).

    Means are over all batches, each with the same weight. Nothing else of the network moves, dropout least of all.
    Raises ValueError for fewer than one batch.
    """
    net = copy.deepcopy(pruned.net).eval()
    net.load_state_dict(pruned.state)
    norms = {
        name: layer
        for name, layer in net.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    }
    for layer in norms.values():
        layer.reset_running_stats()
        layer.momentum = None  # an average of all batches
        layer.train()
    with torch.no_grad():
        for batch in pruned.first(batches):
            pruned.outputs(net, batch)
    return {
        f"{name}.{statistic}".removeprefix("."): getattr(layer, statistic)
        for name, layer in norms.items()
        for statistic in ("running_mean", "running_var")
    }
