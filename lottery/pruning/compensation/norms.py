"""Compensations that look at no data: the strength of each unit's inputs is restored."""

from __future__ import annotations

from torch import Tensor

from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.compensation.inputs import layers


def norm(pruned: Pruned) -> dict[str, Tensor]:
    """Each output's kept weights grow to the 2-norm of all it had (neuronal regulation, Chechik et al. 1998).

    An output that keeps nothing, or had nothing, stays as it is.
    """
    found = {}
    for name in layers(pruned):
        weight = pruned.weights[name]
        kept = weight * pruned.masks[name].to(weight.device)
        before, after = (each.flatten(1).double().norm(dim=1) for each in (weight, kept))
        factor = (before / after).where(after > 0, 1.0).to(weight.dtype)
        found[name] = kept * factor.view(-1, *[1] * (weight.ndim - 1))
    return found
