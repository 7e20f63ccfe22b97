"""Pools: one score of each group of weights, whatever the groups are: blocks, rows, columns or channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

POOLS = ("mean", "sum", "max", "norm")


def pooled(scores: Tensor, alive: Tensor, pool: str) -> Tensor:
    """The mean, sum, max or 2-norm (`norm`) of the scores of each group's unpruned members, in float64.

    `scores` and `alive` have a group's members in their last dimension, which goes. Zero for a group without an
    unpruned member. Raises ValueError for a norm of scores of which some are negative: it would lose their sign.

    >>> pooled(torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[True, True, False]]), "norm").item()
    5.0
    """
    scores = scores.double()
    if pool == "max":
        lowest = torch.finfo(scores.dtype).min
        highest = scores.masked_fill(~alive, lowest).amax(-1) if scores.shape[-1] else scores.sum(-1)
        return highest.masked_fill(~alive.any(-1), 0.0)
    values = scores.masked_fill(~alive, 0.0)
    if pool == "norm":
        if negative := int((values < 0).count_nonzero()):
            raise ValueError(
                f"structure.pool=norm: {negative:,} of {int(alive.count_nonzero()):,} scores are negative, and a norm "
                "would lose their sign; mean, sum and max keep it"
            )
        return values.norm(dim=-1)
    return values.sum(-1) / (alive.sum(-1).clamp(min=1) if pool == "mean" else 1)


def check_pool(pool: str, allowed: Sequence[str]) -> None:
    """Raises ValueError for a `structure.pool` that is not among those allowed."""
    if pool not in allowed:
        raise ValueError(f"structure.pool={pool}: must be one of {', '.join(allowed)}")
