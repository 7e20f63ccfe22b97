"""Schedules: how many weights each round keeps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from lottery.pruning.contracts import Schedule, Target


def geometric(rounds: int, keep: float = 0.8) -> Schedule:
    """Each round keeps the same share of the weights not pruned yet (Frankle & Carbin 2019: 0.8).

    >>> [round(target.density, 3) for target in geometric(rounds=3)]
    [0.8, 0.64, 0.512]

    Raises ValueError for a negative number of rounds or `keep` outside (0, 1].
    """
    if rounds < 0:
        raise ValueError(f"rounds={rounds}: must be 0 or more")
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: must lie in (0, 1]")
    return tuple(Target(density=keep**index, keep=keep) for index in range(1, rounds + 1))


def one_shot(density: float) -> Schedule:
    """A single pruned round, with a density in (0, 1).

    >>> [(target.density, target.keep) for target in one_shot(0.1)]
    [(0.1, 0.1)]
    """
    if not 0 < density < 1:
        raise ValueError(f"density={density}: must lie inside (0, 1)")
    return explicit([density])


def explicit(densities: Iterable[float]) -> Schedule:
    """One round for each density in the list.

    >>> [(target.density, target.keep) for target in explicit([0.5, 0.25])]
    [(0.5, 0.5), (0.25, 0.5)]

    Raises ValueError unless the densities lie inside (0, 1) and decrease strictly.
    """
    densities = list(densities)
    steps = list(pairwise([1.0, *densities]))
    if any(not 0 < low < high for high, low in steps):
        raise ValueError(f"densities={densities}: must fall strictly, inside (0, 1)")
    return tuple(Target(low, low / high) for high, low in steps)
