"""Scopes: where scores compete for the places that a target leaves. A scope never revives a pruned weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from lottery.criteria import Scores
from lottery.masks import Masks


@dataclass(frozen=True)
class Target:
    """What one round is asked to keep; new fields never break old scopes."""

    density: float
    """kept share of all prunable weights after this round, in [0, 1]"""
    keep: float
    """kept share of the weights alive now, in [0, 1]: a paper's 1 - p"""


Scope = Callable[[Scores, Masks, Target], Masks]


def everywhere(scores: Scores, masks: Masks, target: Target) -> Masks:
    """All weights of the network compete; meets `target.density` to the element."""
    flat = torch.cat([scores[name].flatten() for name in masks])
    alive = torch.cat([mask.flatten() for mask in masks.values()])
    chosen = _best(flat, alive, round(target.density * alive.numel()))
    parts = chosen.split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def layerwise(scores: Scores, masks: Masks, target: Target) -> Masks:
    """Weights compete within their layer, each layer keeps the same share; meets `target.density` to the element."""
    total = round(target.density * sum(mask.numel() for mask in masks.values()))
    shares = {name: target.density * mask.numel() for name, mask in masks.items()}
    counts = _apportion(total, shares, {name: int(mask.sum()) for name, mask in masks.items()})
    return {name: _best(scores[name], mask, counts[name]) for name, mask in masks.items()}


def rates(
    scores: Scores, masks: Masks, target: Target, output: float = 0.5, layers: Mapping[str, float] | None = None
) -> Masks:
    """Prunes `round(rate x alive)` weights of each layer, rate = 1 - `target.keep` (Frankle & Carbin 2019, figure 2).

    The last layer is pruned at `output` times that rate, a layer whose parameter name matches a pattern
    of `layers` at that pattern's multiple of it: with keep 0.8, the paper's 20 % and 10 % for the output
    layer are `output=0.5`. The network's density follows from the layers.

    >>> masks = {"fc.weight": torch.ones(10, dtype=torch.bool), "out.weight": torch.ones(10, dtype=torch.bool)}
    >>> scores = {name: torch.arange(10.0) for name in masks}
    >>> [int(m.sum()) for m in rates(scores, masks, Target(density=0.8, keep=0.8)).values()]
    [8, 9]

    Raises ValueError for a pattern that no layer matches or a rate outside [0, 1].
    """
    factors = dict.fromkeys(masks, 1.0) | {list(masks)[-1]: output}
    for pattern, factor in (layers or {}).items():
        matched = [name for name in masks if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"scope.layers: no layer matches {pattern!r}; the layers are {', '.join(masks)}")
        factors |= dict.fromkeys(matched, factor)
    result = {}
    for name, mask in masks.items():
        rate, alive = factors[name] * (1 - target.keep), int(mask.sum())
        if not -1e-9 <= rate <= 1 + 1e-9:
            raise ValueError(f"scope: {factors[name]:g} x the rate {1 - target.keep:g} of {name} lies outside [0, 1]")
        # The product is rounded to nine digits first: 0.2 x 5 as 1 - 0.8 = 0.19999999999999996 must not tip a half.
        result[name] = _best(scores[name], mask, alive - round(round(rate * alive, 9)))
    return result


def choose(scope: Scope, scores: Scores, masks: Masks, target: Target) -> Masks:
    """The scope's masks, checked against its contract. Raises ValueError if a pruned weight would come back."""
    chosen = checked(scope(scores, masks, target), like=masks)
    for name, mask in chosen.items():
        if (mask & ~masks[name]).any():
            raise ValueError(f"a pruned weight of {name} comes back")
    return chosen


def checked(masks: Masks, like: Masks) -> Masks:
    """The masks, if they are boolean and have the layers and shapes of others. Raises ValueError if not."""
    if missing := sorted(masks.keys() ^ like.keys()):
        raise ValueError(f"masks before and after differ in {', '.join(missing)}")
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != like[name].shape:
            found, wanted = f"{mask.dtype} of shape {tuple(mask.shape)}", tuple(like[name].shape)
            raise ValueError(f"the mask of {name} is {found}, not boolean of {wanted}")
    return masks


def _best(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Keeps the `count` highest scores among the living, or all of them if fewer live; of equals, the first.

    The threshold is found by selection, and only scores equal to it are told apart by their index,
    so that the count is exact whatever ties there are.
    """
    count = min(count, int(alive.sum()))
    if count == 0:
        return torch.zeros_like(alive)
    flat = scores.flatten().masked_fill(~alive.flatten(), -torch.inf)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    above, equal = flat > threshold, flat == threshold
    above[equal.nonzero()[: count - int(above.sum()), 0]] = True
    return above.view_as(alive)


def _apportion(total: int, shares: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers near `shares` that add up to `total`: largest remainders first, none above its limit."""
    counts = {name: min(int(share), limits[name]) for name, share in shares.items()}
    for _ in range(min(total, sum(limits.values())) - sum(counts.values())):
        neediest = max((n for n in shares if counts[n] < limits[n]), key=lambda n: shares[n] - counts[n])
        counts[neediest] += 1
    return counts
