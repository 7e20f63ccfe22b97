"""Compensations that move biases: what is pruned is replaced by its mean contribution."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.compensation.inputs import layers, matrix, rows
from lottery.pruning.readers import batch_norms


def mean(pruned: Pruned, batches: int = 16) -> dict[str, Tensor]:
    """The mean of what pruned weights contributed goes into the next bias (mean replacement, Molchanov et al. 2017).

    Exact where their inputs do not vary. At padded borders of a convolution they do, since zeros stand there; the mean
    is over 16 positions of each example. A layer without a bias, or with a frozen one, hands the mean to the BatchNorm
    that reads it, in whose running mean it is subtracted; one with neither stays as it is. Raises ValueError for fewer
    than one batch.
    """
    means = input_means(pruned, batches)
    return shifted(pruned, {name: lost_part(pruned, name) @ mean for name, mean in means.items()})


def input_means(pruned: Pruned, batches: int) -> dict[str, Tensor]:
    """Mean input of each layer over the first batches, (groups, columns), by the weight's name, in float64."""
    totals: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for batch in rows(pruned, batches):
        for name, given in batch.items():
            total = given.double().sum(1)
            totals[name] = totals[name] + total if name in totals else total
            counts[name] += given.shape[1]
    return {name: (total / counts[name])[..., None] for name, total in totals.items()}


def lost_part(pruned: Pruned, name: str) -> Tensor:
    """What is pruned of a weight, as a matrix in float64, with zeros where it is kept."""
    layer, weight = layers(pruned)[name], pruned.weights[name]
    return matrix(layer, (weight * ~pruned.masks[name].to(weight.device)).double())


def shifted(pruned: Pruned, shifts: dict[str, Tensor]) -> dict[str, Tensor]:
    """New biases, or running means of BatchNorm, that add a shift to each output of the layers that have either."""
    state, places = pruned.net.state_dict(), intercepts(pruned)
    return {
        place: state[place] + (sign * shifts[name].flatten()).to(state[place])
        for name, (place, sign) in places.items()
        if name in shifts
    }


def intercepts(pruned: Pruned) -> dict[str, tuple[str, int]]:
    """What shifts a layer's outputs, by its weight: its bias (+1), or the running mean (-1) of a BatchNorm after it.

    A frozen bias shifts nothing, since it keeps its value, nor does a BatchNorm that reads something else too.
    """
    state, found = pruned.net.state_dict(), {}

    def run() -> None:
        pruned.outputs(pruned.net, next(pruned.first(1)))

    readers = batch_norms(pruned.net, pruned.weights, run, alone=True)
    for name in layers(pruned):
        bias = f"{name.rpartition('.')[0]}.bias".removeprefix(".")
        if bias in state and bias not in pruned.frozen:
            found[name] = bias, 1
        elif (running := f"{readers.get(name)}.running_mean") in state:
            found[name] = running, -1
    return found
