"""Scopes: which weights are ranked against each other to meet a target. A scope never revives a pruned weight.

A scope that is asked for more weights than live keeps all that do. With `floor`, each layer keeps at least as many
weights, so that no layer dies; the density stays the target's. Layers whose parameter name matches a pattern in `spare`
are not pruned, and the density is that of the other layers: Frankle & Carbin (2019) count this way when they spare a
ResNet's shortcuts and output layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from lottery.pruning import densities
from lottery.pruning.contracts import KeepsNothing, Scores, Target
from lottery.pruning.lamp import lamp_scores
from lottery.pruning.masks import Masks
from lottery.pruning.selection import best, best_by_row


def everywhere(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = (), floor: int = 0) -> Masks:
    """Ranks all weights of the network together; meets `target.density` to the nearest weight.

    >>> import torch
    >>> masks = {"conv.weight": torch.ones(6, dtype=torch.bool), "fc.weight": torch.ones(2, dtype=torch.bool)}
    >>> scores = {"conv.weight": torch.arange(6.0), "fc.weight": torch.zeros(2)}
    >>> [int(mask.sum()) for mask in everywhere(scores, masks, Target(0.5, 0.5), spare=["fc.*"]).values()]
    [3, 2]
    >>> [int(mask.sum()) for mask in everywhere(scores, masks, Target(0.5, 0.5), floor=1).values()]
    [3, 1]

    Raises ValueError if a pattern matches no layer, no layer is left to prune, or the floors exceed the density.
    """
    names = _competing(masks, spare)
    return masks | _ranked(names, scores, masks, _total(masks, target, names), floor)


def lamp(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = (), floor: int = 0) -> Masks:
    """Ranks all weights together by LAMP: score^2 over the squares of all scores of the layer not below it, summed.

    The sum is over unpruned weights, and of equal scores the first is taken for the higher (Lee et al. 2021, whose
    score is magnitude). The best weight of a layer therefore comes before all others', unless its score is zero. A
    negative score comes after all that are not. Raises ValueError as `everywhere` does.
    """
    names = _competing(masks, spare)
    relative = {name: lamp_scores(scores[name], masks[name]) for name in names}
    found = _ranked(names, relative, masks, _total(masks, target, names), floor)
    # chosen again by the scores themselves: rounding may make the LAMP of two unequal scores equal
    return masks | {name: _best_of(scores, masks, name, int(found[name].count_nonzero())) for name in names}


def threshold(
    scores: Scores, masks: Masks, target: Target, above: float, spare: Sequence[str] = (), floor: int = 0
) -> Masks:
    """Keeps what scores more than `above`, whatever the target: the density follows from the scores.

    Raises KeepsNothing, a ValueError, if no unpruned weight does, and ValueError for `spare` as `everywhere` does.
    """
    names = _competing(masks, spare)
    _floors(masks, names, floor)
    found = {name: masks[name] & (scores[name] > above) | _best_of(scores, masks, name, floor) for name in names}
    if not any(mask.any() for mask in found.values()):
        living = [float(scores[name][masks[name]].max()) for name in names if masks[name].any()]
        highest = f"the highest score is {max(living):g}" if living else "no weight is unpruned"
        raise KeepsNothing(f"scope.above={above:g}: no weight scores more, so that none would be kept; {highest}")
    return masks | found


def layerwise(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = (), floor: int = 0) -> Masks:
    """Ranks weights within their layer; all layers keep the same share. Meets `target.density` to the nearest weight.

    Raises ValueError as `everywhere` does.
    """
    names = _competing(masks, spare)
    return _at(dict.fromkeys(names, target.density), scores, masks, target, floor)


def erdos_renyi(
    scores: Scores, masks: Masks, target: Target, kernel: bool = False, spare: Sequence[str] = (), floor: int = 0
) -> Masks:
    """Ranks weights within their layer, at the layer densities of a random graph; thin layers keep more.

    They are proportional to (outputs + inputs) / (outputs x inputs) (Mocanu et al. 2018), with `kernel` to
    (outputs + inputs + sides of the kernel) / weights (ERK, Evci et al. 2020), capped at 1. Raises ValueError as
    `everywhere` does.
    """
    shapes = {name: masks[name].shape for name in _competing(masks, spare)}
    return _at(densities.erdos_renyi(shapes, target.density, kernel), scores, masks, target, floor)


def smart_ratio(
    scores: Scores, masks: Masks, target: Target, output: float = 0.3, spare: Sequence[str] = (), floor: int = 0
) -> Masks:
    """Ranks weights within their layer; layer l of L keeps a share proportional to (L - l + 1)^2 + (L - l + 1).

    The output layer has density `output` (Su et al. 2020, with random scores). Layers count in order of definition.
    Unlike the authors' code: a hidden linear layer is a layer like any other, where theirs keep 0.3; shares are not
    divided by l^2 for VGG; what a full layer can't hold goes to all others in proportion, where theirs fills the
    layers from the input on; counts are exact. Raises ValueError as `everywhere` does, for `output` outside [0, 1],
    and where the output layer alone exceeds the density.
    """
    if not 0 <= output <= 1:
        raise ValueError(f"scope.output={output:g}: must lie in [0, 1]")
    sizes = {name: masks[name].numel() for name in _competing(masks, spare)}
    last = target.output or list(masks)[-1]
    return _at(densities.smart_ratio(sizes, target.density, last, output), scores, masks, target, floor)


def isomorphic(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = (), floor: int = 0) -> Masks:
    """Ranks weights among layers of the same shape; all such groups keep the same share (after Fang et al. 2024).

    The paper groups the parts of a network by their graphs and ranks whole channels; a layer's part here is its weight.
    Raises ValueError as `everywhere` does.
    """
    names = _competing(masks, spare)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        groups.setdefault(masks[name].shape, []).append(name)
    total = _total(masks, target, names)
    least = _floors(masks, names, floor, total)
    counts = densities.apportion(
        total,
        {shape: target.density * _size(masks, group) for shape, group in groups.items()},
        {shape: _alive(masks, group) for shape, group in groups.items()},
        {shape: sum(least[name] for name in group) for shape, group in groups.items()},
    )
    found = {shape: _ranked(group, scores, masks, counts[shape], floor) for shape, group in groups.items()}
    return masks | {name: found[masks[name].shape][name] for name in names}


def per_output(scores: Scores, masks: Masks, target: Target, spare: Sequence[str] = (), floor: int = 0) -> Masks:
    """Ranks weights within those of one output, the first dimension; all keep the same share (Wanda, Sun et al. 2024).

    Layers keep the same share too. What does not divide evenly goes to the outputs whose next weight scores highest.
    The weights of a parameter of one dimension are ranked together. Raises ValueError as `everywhere` does.
    """
    names = _competing(masks, spare)
    counts = _counts(dict.fromkeys(names, target.density), masks, target, floor)
    return masks | {name: best_by_row(scores[name], masks[name], counts[name]) for name in names}


def rates(
    scores: Scores,
    masks: Masks,
    target: Target,
    output: float = 0.5,
    layers: Mapping[str, float] | None = None,
    floor: int = 0,
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
    result, least = {}, _floors(masks, list(masks), floor)
    for name, mask in masks.items():
        rate, alive = factors[name] * (1 - target.keep), int(mask.count_nonzero())
        if not -1e-9 <= rate <= 1 + 1e-9:
            raise ValueError(f"scope: {factors[name]:g} x the rate {1 - target.keep:g} of {name} lies outside [0, 1]")
        # Round to nine digits first: 1 - 0.8 is 0.19999999999999996, and such an error must not decide a tie at .5.
        count = max(least[name], alive - round(round(rate * alive, 9)))
        result[name] = _best_of(scores, masks, name, count)
    return result


def _ranked(names: Sequence[str], scores: Scores, masks: Masks, count: int, floor: int) -> Masks:
    """Keeps the `floor` best weights of each layer, and the best of all others up to `count` in total."""
    least = _floors(masks, names, floor, count)
    first = {name: _best_of(scores, masks, name, least[name]) for name in names} if floor else {}
    rest = [masks[name] & ~first[name] if floor else masks[name] for name in names]
    found = best([scores[name] for name in names], rest, count - sum(least.values()))
    return {name: mask | first[name] if floor else mask for name, mask in zip(names, found, strict=True)}


def _at(layers: Mapping[str, float], scores: Scores, masks: Masks, target: Target, floor: int) -> Masks:
    """Ranks weights within their layer; the layers named keep the densities given."""
    counts = _counts(layers, masks, target, floor)
    return masks | {name: _best_of(scores, masks, name, count) for name, count in counts.items()}


def _counts(layers: Mapping[str, float], masks: Masks, target: Target, floor: int) -> dict[str, int]:
    """How many weights the layers named keep, to have the densities given and `target.density` in total."""
    total, names = _total(masks, target, list(layers)), list(layers)
    shares = {name: density * masks[name].numel() for name, density in layers.items()}
    alive = {name: _alive(masks, [name]) for name in layers}
    return densities.apportion(total, shares, alive, _floors(masks, names, floor, total))


def _best_of(scores: Scores, masks: Masks, name: str, count: int) -> Tensor:
    return best([scores[name]], [masks[name]], count)[0]


def _total(masks: Masks, target: Target, names: Sequence[str]) -> int:
    """How many weights of the layers named are asked for."""
    return round(target.density * _size(masks, names))


def _size(masks: Masks, names: Sequence[str]) -> int:
    return sum(masks[name].numel() for name in names)


def _alive(masks: Masks, names: Sequence[str]) -> int:
    return sum(int(masks[name].count_nonzero()) for name in names)


def _floors(masks: Masks, names: Sequence[str], floor: int, total: int | None = None) -> dict[str, int]:
    """How many weights each layer keeps at the least: `floor`, or all if fewer live. Raises ValueError."""
    if floor < 0:
        raise ValueError(f"scope.floor={floor}: must be 0 or more")
    least = {name: min(floor, _alive(masks, [name])) if floor else 0 for name in names}
    if total is not None and sum(least.values()) > total:
        raise ValueError(
            f"scope.floor={floor}: {len(names)} layers keep {sum(least.values())} weights at the least, and the "
            f"density asked for leaves {total}"
        )
    return least


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
