"""Densities of layers: how the weights that a network keeps are divided among its layers, from their sizes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeVar

Key = TypeVar("Key")


def erdos_renyi(shapes: Mapping[str, Sequence[int]], density: float, kernel: bool) -> dict[str, float]:
    """Densities proportional to (outputs + inputs) / (outputs x inputs) (Mocanu et al. 2018), as of a random graph.

    With `kernel`, the sides of a convolution's kernel are added to the sum and multiplied into the product (ERK, Evci
    et al. 2020). Inputs are those of a group, for one in groups. A parameter of one dimension has the ratio 1.

    >>> erdos_renyi({"small": (2, 2), "large": (8, 8)}, 0.25, kernel=False)
    {'small': 0.85, 'large': 0.2125}
    """
    sides = {name: tuple(shape) if kernel else tuple(shape[:2]) for name, shape in shapes.items()}
    ratios = {name: sum(each) / prod(each) if each and all(each) else 1.0 for name, each in sides.items()}
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    return scaled(ratios, sizes, density * sum(sizes.values()))


def smart_ratio(sizes: Mapping[str, int], density: float, output: str | None, keep: float) -> dict[str, float]:
    """Densities of layer l of L proportional to (L - l + 1)^2 + (L - l + 1) (Su et al. 2020), in order of `sizes`.

    The output layer has density `keep`, or more if the other layers can't hold the rest. Raises ValueError if its
    weights alone exceed those asked for.

    >>> smart_ratio({"first": 8, "second": 8, "output": 8}, 0.5, "output", 0.25)
    {'first': 0.8333333333333334, 'second': 0.4166666666666667, 'output': 0.25}
    """
    count, total = len(sizes), density * sum(sizes.values())
    ratios = {name: float((count - index) ** 2 + count - index) for index, name in enumerate(sizes)}
    if output is None or output not in sizes:
        return scaled(ratios, sizes, total)
    others = {name: size for name, size in sizes.items() if name != output}
    rest = total - keep * sizes[output]
    if rest <= -0.5:
        raise ValueError(
            f"scope.output={keep:g}: keeps {keep * sizes[output]:.0f} weights of {output} alone, and density "
            f"{density:g} leaves {total:.0f}"
        )
    left = max(0.0, rest - sum(others.values()))
    found = scaled(ratios, others, rest - left) | {output: keep + left / max(1, sizes[output])}
    return {name: found[name] for name in sizes}


def scaled(ratios: Mapping[str, float], sizes: Mapping[str, int], total: float) -> dict[str, float]:
    """The multiple of `ratios`, none above 1, with which the layers keep `total` weights.

    What a full layer can't hold goes to the others in proportion to their ratios, as RigL does.

    >>> scaled({"a": 3.0, "b": 1.0, "c": 2.0}, {"a": 10, "b": 10, "c": 10}, 22)
    {'a': 1.0, 'b': 0.4, 'c': 0.8}
    """
    full: set[str] = set()
    while len(full) < len(sizes):
        rest = {name: ratios[name] * size for name, size in sizes.items() if name not in full}
        scale = (total - sum(sizes[name] for name in full)) / (sum(rest.values()) or 1.0)
        over = {name for name in rest if scale * ratios[name] > 1}
        if not over:
            return {name: 1.0 if name in full else max(0.0, scale * ratios[name]) for name in sizes}
        full |= over
    return dict.fromkeys(sizes, 1.0)


def apportion(
    total: int, shares: Mapping[Key, float], limits: Mapping[Key, int], least: Mapping[Key, int] | None = None
) -> dict[Key, int]:
    """Rounds `shares` to integers that sum to `total` (largest remainder method), none above its limit.

    A share below `least` is raised to it, and the others shrink in proportion; the sum of `least` must not exceed
    `total`.

    >>> apportion(10, {"a": 0.5, "b": 2.5, "c": 7.0}, {"a": 9, "b": 9, "c": 9}, least={"a": 1, "b": 1, "c": 1})
    {'a': 1, 'b': 2, 'c': 7}
    """
    if least and any(share < least[name] for name, share in shares.items()):
        shares = _raised(total, shares, least)
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


def _raised(total: int, shares: Mapping[Key, float], least: Mapping[Key, int]) -> dict[Key, float]:
    """Shares that sum to `total`, those that fall below their least raised to it and the others scaled down."""
    low: set[Key] = set()
    while True:
        rest = {name: share for name, share in shares.items() if name not in low}
        scale = (total - sum(least[name] for name in low)) / (sum(rest.values()) or 1.0)
        if not (below := {name for name, share in rest.items() if scale * share < least[name]}):
            return {name: float(least[name]) if name in low else scale * shares[name] for name in shares}
        low |= below
