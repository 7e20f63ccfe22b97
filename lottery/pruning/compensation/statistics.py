"""Compensations that measure again: BatchNorm's statistics under the masks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lottery.pruning.batchnorm import averaging, norms
from lottery.pruning.compensation.contracts import Pruned


def batch_norm(pruned: Pruned, batches: int = 16) -> dict[str, Tensor]:
    """BatchNorm's running mean and variance, measured anew under the masks over the first batches (Li et al. 2020).

    Means are over all batches, each with the same weight. Nothing else of the network moves, dropout least of all,
    nor a BatchNorm that no batch reaches. Raises ValueError for fewer than one batch.
    """
    net = copy.deepcopy(pruned.net)
    net.load_state_dict(pruned.state)
    layers = norms(net)
    with averaging(net, layers), torch.no_grad():
        for batch in pruned.first(batches):
            pruned.outputs(net, batch)
    return {
        f"{name}.{statistic}".removeprefix("."): getattr(layer, statistic)
        for name, layer in net.named_modules()
        if layer in layers
        for statistic in ("running_mean", "running_var")
    }
