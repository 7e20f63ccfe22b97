"""Criteria that use gradients of the loss."""

from __future__ import annotations

from lottery.pruning.contracts import Evidence, Scores


def snip(evidence: Evidence, batches: int = 1) -> Scores:
    """|gradient x weight|, the first-order change of the loss when the weight is removed (SNIP, Lee et al. 2019).

    The gradient is that of the mean loss over the first `batches` training batches; frozen weights are scored like
    all others. Raises ValueError for fewer than one batch.
    """
    weights = evidence.weights
    return {name: (weights[name] * gradient).detach().abs() for name, gradient in evidence.gradients(batches).items()}
