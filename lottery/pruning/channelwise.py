"""The structure of channels: a scope chooses among them, and all that is coupled to a channel goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.pruning.channels.carried import PRODUCES
from lottery.pruning.channels.coupling import Coupling, Group
from lottery.pruning.channels.masking import alive
from lottery.pruning.channels.masking import masks as without
from lottery.pruning.channels.removal import Kept
from lottery.pruning.contracts import Scope, Scores, Target, checked
from lottery.pruning.masks import Masks, density

POOLS = ("mean", "sum", "max", "norm", "first")
BUDGETS = ("weights", "channels")
STEPS = 20
"""halvings of the interval in which the share of channels lies that keeps a share of weights"""


def channels(
    scope: Scope,
    scores: Scores,
    masks: Masks,
    target: Target,
    pool: str = "mean",
    budget: str = "weights",
    least: int = 1,
    multiple: int = 1,
) -> Masks:
    """Channels, with the rows that produce them and the columns that read them (Li et al. 2017; Fang et al. 2023).

    Neurons of linear layers, filters of convolutions, heads of attention; where channels are added, concatenated or
    normalised together, they go together. A channel scores the `mean`, `sum`, `max` or 2-norm (`norm`) of the scores of
    all rows that produce it, or the sum of those of the `first` weight that does. The scope takes a group of channels
    for a layer. With `budget` weights the density is that of weights, as near as whole channels come to it from below;
    with channels it is a share of channels. A group keeps `least` channels, and a number of them that `multiple`
    divides, if it has as many.

    Raises ValueError for arguments that are none of these, and Refused for a network without channels that can go, and
    for a density of weights below the smallest that can be reached.
    """
    _check(pool, budget, least, multiple)
    if target.channels is None:
        raise Refused("structure=channels: channels are found by running a network, and there is none here")
    coupling = target.channels()
    if not coupling.groups:
        raise Refused("structure=channels: the network has no channels that can be removed")
    lives = {name: _marked(coupling.group(name), kept) for name, kept in alive(coupling, masks).items()}
    pooled = {group.name: _pooled(group, scores, pool) for group in coupling.groups}
    living = sum(int(mask.sum()) for mask in lives.values()) / sum(group.size for group in coupling.groups)

    def chosen(share: float) -> dict[str, list[int]]:
        """The channels that the scope keeps at a share of them."""
        asked = replace(target, density=share, keep=min(1.0, share / max(living, share)))
        found = checked(scope(pooled, {name: mask.clone() for name, mask in lives.items()}, asked), like=lives)
        return {
            name: _best(pooled[name], lives[name], _rounded(int(mask.sum()), least, multiple))
            for name, mask in found.items()
        }

    if budget == "channels":
        return without(coupling, chosen(target.density), masks)
    return _within(target.density, chosen, coupling, masks)


def _within(wanted: float, chosen: Callable[[float], Kept], coupling: Coupling, like: Masks) -> Masks:
    """The masks that keep the most channels whose weights are at most the share `wanted` of all."""
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = without(coupling, chosen(middle), like)
        low, high, best = (middle, high, found) if density(found) <= wanted else (low, middle, best)
    if best is None:
        raise Refused(
            f"structure=channels: keeps {density(found):.4g} of the weights at the least, and the schedule asks for "
            f"{wanted:.4g}: a shorter schedule stays above it"
        )
    return best


def _marked(group: Group, kept: list[int]) -> Tensor:
    return torch.zeros(group.size, dtype=torch.bool).index_fill(0, torch.tensor(kept, dtype=torch.long), True)


def _pooled(group: Group, scores: Scores, pool: str) -> Tensor:
    """A score for each channel, from those of the weights that produce it."""
    rows = [
        scores[member.name].movedim(member.axis, 0).flatten(1)[member.positions].flatten(1).double()
        for member in group.of(PRODUCES)
        if member.name in scores
    ]
    if not rows:  # all that produces them has no mask
        return torch.zeros(group.size, dtype=torch.float64)
    if pool == "first":
        return rows[0].sum(1)
    together = torch.cat(rows, 1)
    pools = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "norm": torch.linalg.vector_norm}
    return pools[pool](together, dim=1)


def _rounded(count: int, least: int, multiple: int) -> int:
    """The nearest multiple, and at least `least` and one multiple."""
    return max(least, multiple, multiple * round(count / multiple))


def _best(scores: Tensor, alive: Tensor, count: int) -> list[int]:
    """The channels with the highest scores among those that live, all if there are fewer; the first wins a tie."""
    order = scores.masked_fill(~alive, -torch.inf).argsort(descending=True, stable=True)
    return sorted(order[: min(count, int(alive.sum()))].tolist())


def _check(pool: str, budget: str, least: int, multiple: int) -> None:
    if pool not in POOLS:
        raise ValueError(f"structure.pool={pool}: must be one of {', '.join(POOLS)}")
    if budget not in BUDGETS:
        raise ValueError(f"structure.budget={budget}: must be one of {', '.join(BUDGETS)}")
    for name, value in (("least", least), ("multiple", multiple)):
        if value < 1:
            raise ValueError(f"structure.{name}={value}: must be at least 1")
