"""Scopes: which weights are ranked against each other to meet a target. A scope never revives a pruned weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from lottery.pruning.contracts import Scores, Target
from lottery.pruning.masks import Masks
from lottery.pruning.selection import best


def everywhere(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = ()) -> Masks:
    """Ranks all weights of the network together; meets `target.density` to the nearest weight.

    Layers whose parameter name matches a pattern in `spare` are not pruned, and the density is that of the other
    layers: Frankle & Carbin (2019) count this way when they spare a ResNet's shortcuts and output layer.

    >>> import torch
    >>> masks = {"conv.weight": torch.ones(6, dtype=torch.bool), "fc.weight": torch.ones(2, dtype=torch.bool)}
    >>> scores = {"conv.weight": torch.arange(6.0), "fc.weight": torch.zeros(2)}
    >>> found = everywhere(scores, masks, Target(density=0.5, keep=0.5), spare=["fc.*"])
    >>> [int(mask.sum()) for mask in found.values()]
    [3, 2]

    Raises ValueError if a pattern matches no layer or no layer is left to prune.
    """
    names = _competing(masks, spare)
    count = round(target.density * sum(masks[name].numel() for name in names))
    found = best([scores[name] for name in names], [masks[name] for name in names], count)
    return masks | dict(zip(names, found, strict=True))


def layerwise(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = ()) -> Masks:
    """Ranks weights within their layer; all layers keep the same share. Meets `target.density` to the nearest weight.

    Layers that match `spare` are not pruned, and the density is that of the other layers (see `everywhere`).
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

    The output layer, the last in the forward pass, is pruned at `output` times that rate, and a layer whose parameter
    name matches a pattern in `layers` at that pattern's multiple of the rate. The paper's 20 %, and 10 % for the output
    layer, are keep 0.8 and `output=0.5`. The network's density follows from those of its layers.

    >>> import torch
    >>> masks = {"fc.weight": torch.ones(10, dtype=torch.bool), "out.weight": torch.ones(10, dtype=torch.bool)}
    >>> scores = {name: torch.arange(10.0) for name in masks}
    >>> [int(m.sum()) for m in rates(scores, masks, Target(density=0.8, keep=0.8)).values()]
    [8, 9]

    Raises ValueError if a pattern matches no layer or a rate lies outside [0, 1].
    """
    factors = dict.fromkeys(masks, 1.0) | {target.output or list(masks)[-1]: output}
    for pattern, factor in (layers or {}).items():
        factors |= dict.fromkeys(_matching(masks, pattern, "layers"), factor)
    result = {}
    for name, mask in masks.items():
        rate, alive = factors[name] * (1 - target.keep), int(mask.count_nonzero())
        if not -1e-9 <= rate <= 1 + 1e-9:
            raise ValueError(f"scope: {factors[name]:g} x the rate {1 - target.keep:g} of {name} lies outside [0, 1]")
        # Round to nine digits first: 1 - 0.8 is 0.19999999999999996, and such an error must not decide a tie at .5.
        result[name] = best([scores[name]], [mask], alive - round(round(rate * alive, 9)))[0]
    return result


def _matching(masks: Masks, pattern: str, key: str) -> list[str]:
    """The layers whose names match a pattern, at least one."""
    matched = [name for name in masks if fnmatchcase(name, pattern)]
    if not matched:
        raise ValueError(f"scope.{key}: no layer matches {pattern!r}; the layers are {', '.join(masks)}")
    return matched


def _competing(masks: Masks, spare: Sequence[str]) -> list[str]:
    """The layers that `spare` does not match."""
    spared = {name for pattern in spare for name in _matching(masks, pattern, "spare")}
    if len(spared) == len(masks):
        raise ValueError("scope.spare: every layer is spared, so there is nothing to prune")
    return [name for name in masks if name not in spared]


def _apportion(total: int, shares: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Rounds `shares` to integers that sum to `total` (largest remainder method), none above its limit."""
    counts = {name: min(int(share), limits[name]) for name, share in shares.items()}
    left = min(total, sum(limits.values())) - sum(counts.values())
    while left > 0:
        free = sorted((n for n in shares if counts[n] < limits[n]), key=lambda n: counts[n] - shares[n])
        # as many turns as all free layers can take, at once: each turn has the same order
        turns = min(left // len(free), *(limits[n] - counts[n] for n in free))
        for name in free if turns else free[:left]:
            counts[name] += turns or 1
            left -= turns or 1
    return counts
