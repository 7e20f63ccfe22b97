"""Criteria of units that look at their parameters: how far a filter is from all others, and BatchNorm's scale."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lottery.pruning.contracts import Evidence, Scores
from lottery.pruning.criteria.features import moments
from lottery.pruning.criteria.units import rows, spread
from lottery.pruning.readers import batch_norms

_CHUNK = 1024
"""rows whose distances to all others are in memory at a time"""


def fpgm(evidence: Evidence) -> Scores:
    """Sum of a unit's Euclidean distances to all others of its layer (geometric median, FPGM, He et al. 2019).

    A unit in the middle of the others can be replaced by them. Distances are those of rows of weights, pruned ones
    zero; a unit without an unpruned weight is no neighbour. Sums grow with the number of units: the authors choose
    within layers, as `layerwise` does.
    """
    weights, living = rows(evidence.weights, evidence), rows(evidence.masks, evidence)
    found = {}
    for name, matrix in weights.items():
        lives = living[name].any(1)
        found[name] = matrix.new_zeros(len(matrix), dtype=torch.float64)
        found[name][lives] = _distances(matrix[lives].double())
    return spread(found, evidence)


def batch_norm_scale(evidence: Evidence, batches: int = 10) -> Scores:
    """|Scale| of the BatchNorm that reads a unit's output (network slimming, Liu et al. 2017).

    The scale is the standard deviation that BatchNorm gives a unit. A unit that none reads scores the deviation of its
    own feature map, over `batches` training batches; `scope.spare` leaves such layers whole. The authors train with an
    L1 penalty on the scales. Raises ValueError if no BatchNorm with scales reads any layer, and as `variance` does for
    a layer that none reads.
    """
    first = next(evidence.first(batches), None)
    readers = batch_norms(evidence.net, evidence.masks, lambda: first is not None and evidence.run(first))
    scales = {name: getattr(evidence.net.get_submodule(path), "weight", None) for name, path in readers.items()}
    found = {name: scale.detach().abs() for name, scale in scales.items() if isinstance(scale, Tensor)}
    if not found:
        raise ValueError("no BatchNorm with a scale reads a layer's output as it is; criterion=variance needs none")
    others = {name: mask for name, mask in evidence.masks.items() if name not in found}
    if others:
        measured = moments(replace(evidence, masks=others), batches)
        found |= {name: deviation for name, (_, deviation) in measured.items()}
    return spread(found, evidence)


def _distances(points: Tensor) -> Tensor:
    """The sum of each point's distances to all others."""
    sums = []
    for first, some in enumerate(points.split(_CHUNK)):
        apart = torch.cdist(some, points)
        apart.diagonal(first * _CHUNK).zero_()  # rounding may have left something of a point to itself
        sums.append(apart.sum(1))
    return torch.cat(sums) if sums else points.sum(1)
