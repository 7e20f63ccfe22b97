"""The structure of channels: a scope chooses among them, and all that is coupled to a channel goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.pruning import pools
from lottery.pruning.channels.carried import PRODUCES
from lottery.pruning.channels.coupling import Coupling, Group
from lottery.pruning.channels.masking import alive
from lottery.pruning.channels.masking import masks as without
from lottery.pruning.channels.removal import Kept
from lottery.pruning.contracts import Scope, Scores, Target, checked
from lottery.pruning.masks import Masks, kept

FIRST = "first"
"""the pool that leaves out all but the first weight that produces a channel, and sums its scores"""
BUDGETS = ("weights", "channels", "parameters", "flops", "bytes")
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
    for a layer. The density is a share of the `budget`, as near as whole channels come to it from below: of prunable
    weights, or of the parameters, flops (multiply-adds of an example) or bytes (of a file) that the smaller network has
    of the whole one's; with channels it is a share of channels. A group keeps `least` channels, and a number of them
    that `multiple` divides, if it has as many.

    Raises ValueError for arguments that are none of these, and Refused for a network without channels that can go, and
    for a density below the smallest that can be reached.
    """
    _check(pool, budget, least, multiple)
    if target.channels is None:
        raise Refused("structure=channels: channels are found by running a network, and there is none here")
    coupling = target.channels()
    if not coupling.groups:
        raise Refused("structure=channels: the network has no channels that can be removed")
    lives = {name: _marked(coupling.group(name), kept) for name, kept in alive(coupling, masks).items()}
    scored = {group.name: pooled(group, scores, masks, pool) for group in coupling.groups}
    living = sum(int(mask.sum()) for mask in lives.values()) / sum(group.size for group in coupling.groups)

    def chosen(share: float) -> dict[str, list[int]]:
        """The channels that the scope keeps at a share of them."""
        asked = replace(target, density=share, keep=min(1.0, share / max(living, share)))
        found = checked(scope(scored, {name: mask.clone() for name, mask in lives.items()}, asked), like=lives)
        counts = {
            name: _rounded(int(mask.sum()), int(lives[name].sum()), least, multiple) for name, mask in found.items()
        }
        # of a group that has died one channel stays: a network is never without
        return {name: _best(scored[name], lives[name], count) or [0] for name, count in counts.items()}

    if budget == "channels":
        return without(coupling, chosen(target.density), masks)
    return without(coupling, _within(target.density, chosen, _budget(budget, coupling, masks, target)), masks)


class OutOfReach(Refused):
    """A density that no choice of channels comes to from below; `least` and `most` are the shares that some do."""

    def __init__(self, said: str, least: float = 0.0, most: float = 1.0) -> None:  # defaults: processes pickle errors
        super().__init__(said)
        self.least, self.most = least, most


class Budget(NamedTuple):
    """What the schedule's densities are shares of."""

    name: str
    cost: Callable[[Kept], int]
    """of the network that keeps these channels"""
    whole: int
    """of the whole network"""


def _budget(name: str, coupling: Coupling, masks: Masks, target: Target) -> Budget:
    if name == "weights":
        return Budget(
            name, lambda channels: kept(without(coupling, channels, masks)), sum(map(Tensor.numel, masks.values()))
        )
    if target.cost is None:
        raise Refused(f"structure.budget={name}: is counted on the network, and there is none here")
    cost = partial(target.cost, name)
    if not (whole := cost({})):
        raise Refused(f"structure.budget={name}: the whole network has none")
    return Budget(name, cost, whole)


def _within(wanted: float, chosen: Callable[[float], Kept], budget: Budget) -> Kept:
    """The most channels that cost at most the share `wanted` of a budget."""
    low, high, best, smallest = 0.0, 1.0, None, budget.whole
    cost = lru_cache(lambda found: budget.cost(dict(found)))  # most of the last steps find the same channels
    for _ in range(STEPS):
        middle = (low + high) / 2
        try:
            found = chosen(middle)
        except ValueError:  # a scope's own floor may be more than this share
            low = middle
            continue
        spent = cost(tuple((name, tuple(channels)) for name, channels in found.items()))
        smallest = min(smallest, spent)
        low, high, best = (middle, high, found) if spent / budget.whole <= wanted else (low, middle, best)
    if best is None:
        most = budget.cost(chosen(1.0))  # raises what the scope has to say, if it refuses all shares
        raise OutOfReach(
            f"structure=channels: keeps {smallest / budget.whole:.4g} of the {budget.name} at the least, {smallest:,}, "
            f"and {most / budget.whole:.4g} at the most, {most:,}; {wanted:.4g} is asked for",
            least=smallest / budget.whole,
            most=most / budget.whole,
        )
    return best


def _marked(group: Group, kept: list[int]) -> Tensor:
    return torch.zeros(group.size, dtype=torch.bool).index_fill(0, torch.tensor(kept, dtype=torch.long), True)


def pooled(group: Group, scores: Scores, masks: Masks, pool: str) -> Tensor:
    """A score for each channel, from those of the unpruned weights that produce it; zero where there are none."""
    members = [member for member in group.of(PRODUCES) if member.name in scores][: 1 if pool == FIRST else None]
    if not members:
        return torch.zeros(group.size, dtype=torch.float64)

    def rows(tensors: Mapping[str, Tensor]) -> Tensor:
        found = [tensors[m.name].movedim(m.axis, 0).reshape(m.length, -1)[m.positions].flatten(1) for m in members]
        return torch.cat(found, 1)

    return pools.pooled(rows(scores), rows(masks), "sum" if pool == FIRST else pool)


def _rounded(count: int, living: int, least: int, multiple: int) -> int:
    """The nearest number of channels that `multiple` divides, and at least `least`, whether as many live or not.

    >>> _rounded(13, 15, 1, 8), _rounded(1, 15, 3, 2), _rounded(1, 3, 1, 4)
    (8, 4, 4)
    """
    lowest, highest = -(-max(least, multiple) // multiple) * multiple, living // multiple * multiple
    return max(lowest, min(highest, multiple * round(count / multiple)))


def _best(scores: Tensor, alive: Tensor, count: int) -> list[int]:
    """The channels with the highest scores among those that live, all if there are fewer; the first wins a tie."""
    order = scores.masked_fill(~alive, -torch.inf).argsort(descending=True, stable=True)
    return sorted(order[: min(count, int(alive.sum()))].tolist())


def _check(pool: str, budget: str, least: int, multiple: int) -> None:
    pools.check_pool(pool, (*pools.POOLS, FIRST))
    if budget == "latency":
        raise ValueError(
            "structure.budget=latency: is measured, and what is trained must follow from its configuration alone; "
            "`lottery compress --within latency=2ms` measures which share of the parameters to ask for"
        )
    if budget not in BUDGETS:
        raise ValueError(f"structure.budget={budget}: must be one of {', '.join(BUDGETS)}")
    for name, value in (("least", least), ("multiple", multiple)):
        if value < 1:
            raise ValueError(f"structure.{name}={value}: must be at least 1")
