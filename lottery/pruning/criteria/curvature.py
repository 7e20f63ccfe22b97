"""Criteria that use the curvature of the loss: how it changes to second order when a weight is removed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from lottery.pruning.contracts import Evidence, Scores, Unscorable
from lottery.pruning.derivatives import Times, averaged

LARGEST = 5_000
"""The most weights of which the whole Hessian is computed: it takes a product for each, and 200 MB."""


def obd(evidence: Evidence, batches: int = 1, probes: int | None = 100) -> Scores:
    """h_ii w_i^2 / 2, h the diagonal of the loss's Hessian: Optimal Brain Damage (LeCun et al. 1990).

    The diagonal is Hutchinson's estimate with `probes` random vectors of +1 and -1, without bias, or with null exact.
    Where the loss curves downwards, as before training, scores are negative. Raises ValueError for fewer than one
    batch or probe, and for an exact diagonal of more than 5,000 unpruned weights.
    """
    if probes is None:
        alive = _alive(evidence, "probes=null: must be a number for {}; the diagonal is exact for {} at most")
        diagonal = _spread(_matrix(evidence, alive, batches).diagonal(), alive)
    elif probes < 1:
        raise ValueError(f"probes={probes}: must be at least 1, or null for the exact diagonal")
    else:
        diagonal = averaged(map(partial(_estimate, evidence, probes), evidence.hessians(batches)))
    return {name: weight.detach().square() * diagonal[name] / 2 for name, weight in evidence.weights.items()}


def obs(evidence: Evidence, batches: int = 1, damping: float = 1e-4) -> Scores:
    """w_i^2 / 2 [H^-1]_ii, H the loss's Hessian: Optimal Brain Surgeon (Hassibi & Stork 1992).

    It is how the loss changes when the weight is removed and all others make up for it. H is the whole Hessian in the
    unpruned weights, other parameters held fixed, with `damping` added to its diagonal; pruned weights score 0. Only
    which weight goes is taken from the authors: the others are not updated, and many may go at once. Raises ValueError
    for fewer than one batch, a negative damping, and more than 5,000 unpruned weights, and Unscorable where H is not
    positive definite, as is usual before training.
    """
    if not damping >= 0:
        raise ValueError(f"damping={damping:g}: must be 0 or more")
    alive = _alive(
        evidence,
        "the whole Hessian of {} is too large, over {}; prune.exclude leaves weights out",
    )
    matrix = _matrix(evidence, alive, batches)
    factor, failed = torch.linalg.cholesky_ex(matrix + damping * torch.eye(len(matrix)).to(matrix))
    if failed:
        lowest = float(torch.linalg.eigvalsh(matrix)[0])
        raise Unscorable(
            f"damping={damping:g}: must be above about {max(0.0, -lowest):.3g}, or the Hessian of the loss in these "
            "weights is not positive definite"
        )
    inverse = _spread(torch.cholesky_inverse(factor).diagonal(), alive)
    return {
        name: torch.where(alive[name], weight.detach().square() / (2 * inverse[name]), 0.0)
        for name, weight in evidence.weights.items()
    }


def _estimate(evidence: Evidence, probes: int, times: Times) -> dict[str, Tensor]:
    """Hutchinson's estimate of a Hessian's diagonal: the mean of v x (H v); v is zero where weights are pruned."""

    def probe() -> dict[str, Tensor]:
        drawn = {n: torch.randint(2, w.shape, generator=evidence.rng) * 2.0 - 1 for n, w in evidence.weights.items()}
        return {name: drawn[name].to(weight) * evidence.masks[name] for name, weight in evidence.weights.items()}

    found = ((vector, times(vector)) for vector in (probe() for _ in range(probes)))
    return averaged({name: each * product[name] for name, each in vector.items()} for vector, product in found)


def _alive(evidence: Evidence, said: str) -> dict[str, Tensor]:
    """The masks in the order of the weights. Raises ValueError if they keep too many for a whole Hessian."""
    if (count := sum(int(mask.count_nonzero()) for mask in evidence.masks.values())) > LARGEST:
        raise ValueError(said.format(f"{count:,} unpruned weights", f"{LARGEST:,}"))
    return {name: evidence.masks[name] for name in evidence.weights}


def _matrix(evidence: Evidence, alive: Mapping[str, Tensor], batches: int) -> Tensor:
    """The Hessian of the mean loss in the unpruned weights, layer after layer, in float64."""

    def rows(times: Times) -> dict[str, Tensor]:
        vector = {
            name: torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
            for name, weight in evidence.weights.items()
        }
        found = []
        for name, mask in alive.items():
            for place in mask.flatten().nonzero().flatten().tolist():
                vector[name].view(-1)[place] = 1
                product = times(vector)
                found.append(torch.cat([product[each][alive[each]] for each in alive]).double())
                vector[name].view(-1)[place] = 0
        return {"": torch.stack(found)}

    matrix = averaged(map(rows, evidence.hessians(batches)))[""]
    return (matrix + matrix.T) / 2  # rounding is not symmetric


def _spread(values: Tensor, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of the unpruned weights, layer after layer, in the shapes of the weights; 0 where one is pruned."""
    parts = values.split([int(mask.count_nonzero()) for mask in alive.values()])
    return {
        name: torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter_(mask, part)
        for (name, mask), part in zip(alive.items(), parts, strict=True)
    }
