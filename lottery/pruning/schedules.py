"""Schedules: how many weights each round keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from lottery.pruning.contracts import Schedule, Target

Descent = Callable[[float], Schedule]
"""A density -> targets on the way to it, of which it is the last."""


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
    _check_descent(density, rounds=1)
    return explicit([density])


def exponential(density: float, rounds: int) -> Schedule:
    """Each round keeps the same share, so that the last has `density` (Tanaka et al. 2020: 100 rounds, no training).

    >>> [round(target.density, 3) for target in exponential(density=0.125, rounds=3)]
    [0.5, 0.25, 0.125]

    Raises ValueError for a density outside (0, 1) or fewer than one round.
    """
    _check_descent(density, rounds)
    return explicit(density ** (index / rounds) for index in range(1, rounds + 1))


def linear(density: float, rounds: int) -> Schedule:
    """Each round prunes the same number of weights, so that the last has `density`.

    >>> [round(target.density, 3) for target in linear(density=0.4, rounds=3)]
    [0.8, 0.6, 0.4]

    Raises ValueError for a density outside (0, 1) or fewer than one round.
    """
    _check_descent(density, rounds)
    return explicit(1 - (1 - density) * index / rounds for index in range(1, rounds + 1))


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


def _check_descent(density: float, rounds: int) -> None:
    if not 0 < density < 1:
        raise ValueError(f"density={density}: must lie inside (0, 1)")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: must be at least 1")
