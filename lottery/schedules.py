"""Schedules: what each round is asked to keep."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from lottery.scopes import Target

Schedule = tuple[Target, ...]
"""One target a pruned round; round 0, the dense one, has none."""


def checked_schedule(schedule: object) -> Schedule:
    """A schedule, if it is one target a round and no round asks for more than the one before. Raises ValueError if not.

    >>> checked_schedule([Target(0.5, 0.5), Target(0.25, 0.5)])
    (Target(density=0.5, keep=0.5), Target(density=0.25, keep=0.5))
    """
    if not isinstance(schedule, Iterable):
        raise ValueError(f"must be a sequence of targets, one a round, not a {type(schedule).__name__}")
    targets, before = tuple(schedule), 1.0
    for number, target in enumerate(targets, start=1):
        if not isinstance(target, Target):
            raise ValueError(f"round {number} is {target!r}, no lottery.scopes.Target")
        for name, share in (("density", target.density), ("keep", target.keep)):
            if not isinstance(share, int | float) or not 0 < share <= 1:
                raise ValueError(f"round {number} has {name}={share!r}; must lie in (0, 1]")
        if target.density > before:
            raise ValueError(f"round {number} has density={target.density:g}, more than {before:g} of the round before")
        before = target.density
    return targets


def geometric(rounds: int, keep: float = 0.8) -> Schedule:
    """Keeps the same share of the living weights in each round (Frankle & Carbin 2019: 0.8).

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
    """One pruned round, straight to `density` in (0, 1).

    >>> one_shot(0.1)
    (Target(density=0.1, keep=0.1),)
    """
    if not 0 < density < 1:
        raise ValueError(f"density={density}: must lie inside (0, 1)")
    return explicit([density])


def explicit(densities: Iterable[float]) -> Schedule:
    """One round for each density in the list.

    >>> explicit([0.5, 0.25])
    (Target(density=0.5, keep=0.5), Target(density=0.25, keep=0.5))

    Raises ValueError unless the densities fall strictly, inside (0, 1).
    """
    densities = list(densities)
    steps = list(pairwise([1.0, *densities]))
    if any(not 0 < low < high for high, low in steps):
        raise ValueError(f"densities={densities}: must fall strictly, inside (0, 1)")
    return tuple(Target(low, low / high) for high, low in steps)
