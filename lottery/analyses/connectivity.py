"""Linear mode connectivity: the error barrier between two trainings of the same network (Frankle et al. 2020).

A round's ticket is trained twice under different data orders, and the network is evaluated at points on the straight
line between the two results. For round 0 the ticket is the dense network at the rewinding point, so that a sweep over
`arm.rewind` shows after how many common steps training becomes stable. Unlike in the paper, both copies start with a
fresh optimizer, even at step k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lottery.foundations.seeds import Streams
from lottery.rounds.round import Round, Ticket
from lottery.rounds.study import Cell
from lottery.training.recipes import Recipe
from lottery.training.states import State


@dataclass(frozen=True)
class Connectivity:
    """The error barrier between two trainings of each round's ticket, on test data."""

    points: int = 11
    """points on the line, both ends included"""
    statistics: int = 5000
    """training examples from which BatchNorm's statistics are recomputed at every point"""

    def __post_init__(self) -> None:
        if self.points < 3:
            raise ValueError(f"points={self.points}: must be at least 3, two of which are the ends")
        if self.statistics < 2:
            raise ValueError(f"statistics={self.statistics}: must be at least 2 examples")

    def __call__(self, cell: Cell, current: Round) -> dict[str, Any]:
        recipe = cell.study.recipe
        if current.index == 0 and cell.arm.rewind:
            start = current.cut(cell.arm.rewind).trained
            current = replace(current, ticket=Ticket.of(start.state, start.masks), first=cell.arm.rewind, passing=())
        ends = [replace(current, copy=copy).trained for copy in (0, 1)]
        metric, places = recipe.headline, [step / (self.points - 1) for step in range(self.points)]
        draw = Streams(cell.seed).init
        line = [self._measured(recipe, mixed(ends[0].state, ends[1].state, at), draw) for at in places]
        gains = [metric.gain(value) for value in line if value is not None]  # None is a value that was not finite
        return {
            "barrier": barrier(gains) if len(gains) == len(line) else None,
            "steps_together": current.first,
            "line": [{"place": place, f"test_{metric.name}": value} for place, value in zip(places, line, strict=True)],
        }

    def _measured(self, recipe: Recipe, state: State, draw: int) -> float | None:
        anew = recipe.with_statistics(state, self.statistics, draw, draw)
        return recipe.measured(anew, ["test"], draw, draw)[f"test_{recipe.headline.name}"]


def mixed(one: State, other: State, place: float) -> State:
    """Interpolates linearly between two states: `one` at 0, `other` at 1; integer tensors are those of `one`."""
    return {
        name: torch.lerp(tensor, other[name], place) if tensor.is_floating_point() else tensor
        for name, tensor in one.items()
    }


def barrier(line: Sequence[float]) -> float:
    """How far the lowest value on a line lies below the mean of its ends, at least 0; higher values are better.

    >>> barrier([0.9, 0.6, 0.8])
    0.25
    """
    middle = (line[0] + line[-1]) / 2
    return round(max(0.0, middle - min(line)), 9)
