"""Learning rates: the factor on the optimizer's rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lottery.foundations.durations import Steps

LearningRate = Callable[[float, int], float]
"""(step, of) -> factor in [0, 1] for optimizer step `step`, counted from 0, of a training of `of` steps. `step` is a
fraction where a recipe runs for another number of steps than it was published with."""


def constant(step: float, of: int, factor: float = 1.0) -> float:
    """The same factor at every step."""
    return factor


def multistep(step: float, of: int, milestones: Sequence[Steps] = (), gamma: float = 0.1) -> float:
    """A factor that is multiplied by `gamma` at each milestone (in steps).

    >>> [multistep(step, of=30, milestones=(20, 25)) for step in (19, 20)]
    [1.0, 0.1]
    """
    return gamma ** sum(step >= milestone for milestone in milestones)


def cosine(step: float, of: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * step / of)) / 2


def linear(step: float, of: int) -> float:
    """A straight line from 1 to 0."""
    return 1 - step / of


def warmed_up(rate: LearningRate, warmup: float) -> LearningRate:
    """`rate` after a linear rise over the first `warmup` steps (Goyal et al. 2017); 0 steps leave it as it is.

    >>> [warmed_up(constant, warmup=4)(step, of=8) for step in (0, 1, 4)]
    [0.25, 0.5, 1.0]
    """
    return lambda step, of: rate(step, of) * min(1.0, (step + 1) / warmup if warmup else 1.0)
