"""A curve of characters: a measurement against density, for terminals that know nothing but text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

MARKS = "ox+*#@%&"
"""The marks of arms, in turn."""
_TICKS = [of * 10.0**power for of in (1, 0.5, 0.2) for power in range(0, -5, -1)]
_MARGIN = 9
"""Columns left of the axis: a number of seven characters and its sign."""

Points = Sequence[tuple[float, float]]
"""Densities above 0, and what was measured there."""


def curve(arms: Mapping[str, Points], width: int, height: int) -> list[str]:
    """Lines of text: densities fall to the right, on a logarithmic axis; the first arm lies above the others.

    Nothing is drawn for a single density. Numbers that are not finite have no place.

    >>> for line in curve({"imp": [(1.0, 0.9), (0.5, 0.8), (0.25, 0.7)]}, 30, 3): print(line)
        0.9 |o
        0.8 |          o
        0.7 |                   o
            +--------------------
             100 %     50 %  25 %
    """
    shown = {arm: [(x, y) for x, y in points if x > 0 and math.isfinite(y)] for arm, points in arms.items()}
    densities = {x for points in shown.values() for x, _ in points}
    if len(densities) < 2:
        return []
    values = [y for points in shown.values() for _, y in points]
    (least, most), (low, high) = (min(densities), max(densities)), (min(values), max(values))
    columns = max(10, width - _MARGIN - 1)

    def across(density: float) -> int:
        return round((columns - 1) * (math.log(most) - math.log(density)) / (math.log(most) - math.log(least)))

    def down(value: float) -> int:
        return round((height - 1) * (high - value) / (high - low)) if high > low else height // 2

    field = [[" "] * columns for _ in range(height)]
    for number, points in reversed(list(enumerate(shown.values()))):
        for x, y in points:
            field[down(y)][across(x)] = MARKS[number % len(MARKS)]
    named = {down(value): value for value in (low, (low + high) / 2, high)}
    labels = [f"{named[row]:.4g}" if row in named else "" for row in range(height)]
    lines = [f"{label:>{_MARGIN - 2}} |{''.join(row)}".rstrip() for label, row in zip(labels, field, strict=True)]
    return [*lines, f"{'':{_MARGIN - 1}}+{'-' * columns}", f"{'':{_MARGIN}}{_axis(across, least, most, columns)}"]


def _axis(across: Callable[[float], int], least: float, most: float, columns: int) -> str:
    """The names of both ends and of round densities between them, as far as there is room."""
    text, taken = [" "] * columns, [False] * (columns + 1)
    for density in (most, least, *(tick for tick in _TICKS if least < tick < most)):
        name = f"{100 * density:.3g} %"
        first = min(across(density), columns - len(name))
        around = slice(max(0, first - 1), first + len(name) + 1)
        if first >= 0 and not any(taken[around]):
            text[first : first + len(name)] = name
            taken[first : first + len(name)] = [True] * len(name)
    return "".join(text).rstrip()
