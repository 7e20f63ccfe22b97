"""LAMP: scores made comparable between layers (Lee et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def lamp_scores(scores: Tensor, alive: Tensor) -> Tensor:
    """The square of each unpruned score over the sum of squares of those that rank no lower, in float64.

    Of equal scores the first ranks higher. For a negative score, minus its square over the sum of all squares: it comes
    after those that are not negative, and the order within the layer is that of the scores. Pruned weights get zero.

    >>> lamp_scores(torch.tensor([1.0, 2.0, 2.0, 9.0]), torch.tensor([True, True, True, False]))
    tensor([0.1111, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    found = torch.zeros(scores.shape, dtype=torch.float64)
    ranked, order = scores[alive].double().sort(descending=True, stable=True)
    if not len(ranked) or not (largest := ranked.abs().max()):
        return found
    squares = (ranked / largest).square()  # no square is beyond the range of floats
    sums = squares.cumsum(0)
    share = torch.where(ranked < 0, -squares / sums[-1], squares / sums.clamp(min=torch.finfo(torch.float64).tiny))
    found[alive] = torch.empty_like(share).index_copy_(0, order, share)
    return found
