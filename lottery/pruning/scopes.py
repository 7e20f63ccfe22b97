"""Scopes: where scores compete for the places that a target leaves. A scope never revives a pruned weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from lottery.pruning.contracts import Scores, Target
from lottery.pruning.masks import Masks
from lottery.pruning.selection import best


def everywhere(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = ()) -> Masks:
    """All weights of the network compete; meets `target.density` to the element.

    Layers whose parameter name matches a pattern of `spare` are left as they are, and the density is that of the
    others: so count Frankle & Carbin (2019), who spare a ResNet's shortcuts and output layer.

    >>> import torch
    >>> masks = {"conv.weight": torch.ones(6, dtype=torch.bool), "fc.weight": torch.ones(2, dtype=torch.bool)}
    >>> scores = {"conv.weight": torch.arange(6.0), "fc.weight": torch.zeros(2)}
    >>> found = everywhere(scores, masks, Target(density=0.5, keep=0.5), spare=["fc.*"])
    >>> [int(mask.sum()) for mask in found.values()]
    [3, 2]

    Raises ValueError for a pattern that no layer matches, and if none is left to prune.
    """
    names = _competing(masks, spare)
    count = round(target.density * sum(masks[name].numel() for name in names))
    found = best([scores[name] for name in names], [masks[name] for name in names], count)
    return masks | dict(zip(names, found, strict=True))


def layerwise(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = ()) -> Masks:
    """Weights compete within their layer, each layer keeps the same share; meets `target.density` to the element.

    Layers that match `spare` are left as they are, and the density is that of the others (see `everywhere`).
    """
    names = _competing(masks, spare)
    total = round(target.density * sum(masks[name].numel() for name in names))
    shares = {name: target.density * masks[name].numel() for name in names}
    counts = _apportion(total, shares, {name: int(masks[name].count_nonzero()) for name in names})
    return masks | {name: best([scores[name]], [masks[name]], counts[name])[0] for name in names}


def rates(
    scores: Scores, masks: Masks, target: Target, output: float = 0.5, layers: Mapping[str, float] | None = None
) -> Masks:
    """Prunes `round(rate x alive)` weights of each layer, rate = 1 - `target.keep` (Frankle & Carbin 2019, figure 2).

    The output layer, the last in the forward pass, is pruned at `output` times that rate, a layer whose parameter
    name matches a pattern of `layers` at that pattern's multiple of it: with keep 0.8, the paper's 20 % and 10 % for
    the output layer are `output=0.5`. The network's density follows from the layers.

    >>> import torch
    >>> masks = {"fc.weight": torch.ones(10, dtype=torch.bool), "out.weight": torch.ones(10, dtype=torch.bool)}
    >>> scores = {name: torch.arange(10.0) for name in masks}
    >>> [int(m.sum()) for m in rates(scores, masks, Target(density=0.8, keep=0.8)).values()]
    [8, 9]

    Raises ValueError for a pattern that no layer matches or a rate outside [0, 1].
    """
    factors = dict.fromkeys(masks, 1.0) | {target.output or list(masks)[-1]: output}
    for pattern, factor in (layers or {}).items():
        factors |= dict.fromkeys(_matching(masks, pattern, "layers"), factor)
    result = {}
    for name, mask in masks.items():
        rate, alive = factors[name] * (1 - target.keep), int(mask.count_nonzero())
        if not -1e-9 <= rate <= 1 + 1e-9:
            raise ValueError(f"scope: {factors[name]:g} x the rate {1 - target.keep:g} of {name} lies outside [0, 1]")
        # The product is rounded to nine digits first: 0.2 x 5 as 1 - 0.8 = 0.19999999999999996 must not tip a half.
        result[name] = best([scores[name]], [mask], alive - round(round(rate * alive, 9)))[0]
    return result


def _matching(masks: Masks, pattern: str, key: str) -> list[str]:
    """The layers whose names match a pattern; there must be one."""
    matched = [name for name in masks if fnmatchcase(name, pattern)]
    if not matched:
        raise ValueError(f"scope.{key}: no layer matches {pattern!r}; the layers are {', '.join(masks)}")
    return matched


def _competing(masks: Masks, spare: Sequence[str]) -> list[str]:
    """The layers that are not spared."""
    spared = {name for pattern in spare for name in _matching(masks, pattern, "spare")}
    if len(spared) == len(masks):
        raise ValueError("scope.spare: every layer is spared, so there is nothing to prune")
    return [name for name in masks if name not in spared]


def _apportion(total: int, shares: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers near `shares` that add up to `total`: largest remainders first, none above its limit."""
    counts = {name: min(int(share), limits[name]) for name, share in shares.items()}
    left = min(total, sum(limits.values())) - sum(counts.values())
    while left > 0:
        free = sorted((n for n in shares if counts[n] < limits[n]), key=lambda n: counts[n] - shares[n])
        turns = min(left // len(free), *(limits[n] - counts[n] for n in free))  # each turn is in the same order
        for name in free if turns else free[:left]:
            counts[name] += turns or 1
            left -= turns or 1
    return counts
