"""Criteria of units that look at their feature maps: what they hand on after BatchNorm and activation function.

A map is found as `Evidence.features` says. Of a unit that is added to others, as at the end of a residual block, it is
what the unit adds. Scores are spread over the unit's weights (`criteria.units`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lottery.pruning.contracts import Batch, Evidence, Scores
from lottery.pruning.criteria.units import rows, spread
from lottery.pruning.derivatives import summed
from lottery.pruning.features import unseen, without_units


def taylor_features(evidence: Evidence, batches: int = 10, flops: float = 0.0, normalised: bool = True) -> Scores:
    """|Mean over positions of activation x gradient|, averaged over examples, over its 2-norm in the layer.

    The first-order change of the loss when a feature map is set to zero (Molchanov et al. 2016, equation 8, and their
    normalisation of layers). Of the score is taken `flops` x the millions of floating-point operations that a map of
    the layer costs, unpruned weights alone (their regularisation, 0.001 in the paper). Calls of a layer count as
    further examples. Unless `normalised`, layers are compared as they are. Raises ValueError for fewer than one batch,
    for `flops` below 0, and for a layer whose outputs can't be seen.
    """
    if not flops >= 0:
        raise ValueError(f"flops={flops:g}: must be 0 or more")
    places: dict[str, int] = {}

    def changes(batch: Batch) -> dict[str, Tensor]:
        found = {}
        for name, calls in _all(evidence, evidence.feature_changes(batch)).items():
            places.setdefault(name, sum(positions for _, positions in calls))
            # the mean loss has 1 / examples of each one's own
            each = torch.cat([slope.double() * len(slope) / max(1, positions) for slope, positions in calls])
            found[name] = torch.cat([each.abs().sum(0), each.new_tensor([len(each)])])
        return found

    total, _ = summed(map(changes, evidence.first(batches)))
    units = {}
    for name, of in total.items():
        mean = of[:-1] / of[-1]
        kept = evidence.masks[name].sum() / max(1, len(mean))  # weights of a unit, on average
        length = mean.norm().clamp(min=torch.finfo(mean.dtype).tiny) if normalised else 1
        units[name] = mean / length - flops * 2e-6 * places[name] * kept
    return spread(units, evidence)


def oracle(evidence: Evidence, batches: int = 1) -> Scores:
    """|Change of the loss when a unit's feature map is set to zero|: what `taylor_features` is to foretell.

    The loss is the mean over `batches` training batches, computed anew for each unit (the oracle of Molchanov et al.
    2016). Raises ValueError for fewer than one batch, and for a layer whose outputs can't be seen.
    """
    chosen = list(evidence.first(batches))
    if not chosen:
        raise ValueError("there is no training batch to score with")

    def loss() -> Tensor:
        return torch.stack([evidence.loss(batch).detach() for batch in chosen]).double().mean()

    with torch.no_grad():
        whole = loss()
    units = {}
    for name, living in rows(evidence.masks, evidence).items():
        alive = living.any(1).nonzero().flatten()
        losses = torch.stack(without_units(evidence.net, name, alive.tolist(), loss)) if len(alive) else whole[None][:0]
        units[name] = whole.new_zeros(len(living)).index_copy(0, alive.to(whole.device), (losses - whole).abs())
    return spread(units, evidence)


def apoz(evidence: Evidence, batches: int = 10) -> Scores:
    """Share of a unit's activations that are above zero: 1 - APoZ, the average percentage of zeros (Hu et al. 2016).

    It is over examples and positions of `batches` training batches. Where no ReLU follows, zeros are rare: negative
    activations count as they do. Raises ValueError for fewer than one batch, and for a layer whose outputs can't be
    seen.
    """
    found = _statistics(evidence, batches, lambda units: [(units > 0).sum((0, 2))])
    return spread({name: positive for name, (positive,) in found.items()}, evidence)


def variance(evidence: Evidence, batches: int = 10) -> Scores:
    """Variance of a unit's activations, over examples and positions (variance-based pruning, Berisha et al. 2025).

    What a unit with a small one adds is nearly a constant, which `compensation=mean` puts into the next bias, as the
    authors do. Raises ValueError as `apoz` does.
    """
    return spread({name: deviation.square() for name, (_, deviation) in moments(evidence, batches).items()}, evidence)


def activation_statistics(evidence: Evidence, batches: int = 10, mean: float = 0.1, deviation: float = 0.4) -> Scores:
    """The larger of |mean| / `mean` and standard deviation / `deviation` of a unit's activations.

    Below 1 are the units of which both are near zero, so that `scope=threshold scope.above=1` prunes them. Raises
    ValueError as `apoz` does, and for a `mean` or `deviation` that is not above 0.
    """
    for name, value in (("mean", mean), ("deviation", deviation)):
        if not value > 0:
            raise ValueError(f"{name}={value:g}: must be above 0")
    found = moments(evidence, batches)
    return spread({name: torch.maximum(m.abs() / mean, d / deviation) for name, (m, d) in found.items()}, evidence)


def moments(evidence: Evidence, batches: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each unit's activations over examples and positions, by weight, in float64.

    Raises ValueError as `apoz` does.
    """

    def sums(units: Tensor) -> list[Tensor]:
        units = units.double()
        return [units.sum((0, 2)), units.square().sum((0, 2))]

    found = _statistics(evidence, batches, sums)
    return {name: (mean, (square - mean.square()).clamp(min=0).sqrt()) for name, (mean, square) in found.items()}


def _statistics(evidence: Evidence, batches: int, see: Callable[[Tensor], list[Tensor]]) -> dict[str, Tensor]:
    """Sums of units over the first batches, divided by how many activations a unit had: (sums, units), in float64."""

    def of(units: Tensor) -> Tensor:
        sums = torch.stack(see(units)).double()
        return torch.cat([sums, torch.full_like(sums[:1], units.shape[0] * units.shape[2])])

    def batch_sums(batch: Batch) -> dict[str, Tensor]:
        return {name: torch.stack(calls).sum(0) for name, calls in _all(evidence, evidence.features(batch, of)).items()}

    total, _ = summed(map(batch_sums, evidence.first(batches)))
    return {name: sums[:-1] / sums[-1] for name, sums in total.items()}


def _all(evidence: Evidence, found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What was found of each weight. Raises ValueError for one whose layer was not called, or is of another kind."""
    if missing := [name for name in evidence.weights if not found.get(name)]:
        raise ValueError(unseen(missing[0]))
    return {name: found[name] for name in evidence.weights}
