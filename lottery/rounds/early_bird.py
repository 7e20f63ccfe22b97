"""Early-bird tickets: masks converge before weights, so the dense training can stop early (You et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lottery.foundations.durations import Steps
from lottery.pruning.masks import Masks, kept
from lottery.rounds.round import Round


@dataclass(frozen=True)
class Settled:
    """The condition under which a mask counts as settled."""

    every: Steps
    """optimizer steps between two checks of the mask; an epoch in the paper"""
    threshold: float = 0.1
    """upper bound of the distance between two successive masks; `distance` is scaled differently from the paper's"""
    window: int = 5
    """how many successive distances must be below the threshold"""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}: must be at least 1 step")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold:g}: must lie in (0, 1]")
        if self.window < 1:
            raise ValueError(f"window={self.window}: must be at least 1")

    def looks(self, steps: int) -> range:
        """The steps of a training at which the mask is checked; the last step is not one of them."""
        return range(self.every, steps, self.every)

    def step(self, distances: Sequence[tuple[int, float]]) -> int | None:
        """The first step at which the mask has settled, or None, given (step, distance to the previous mask).

        >>> Settled(every=10, window=2).step([(20, 0.3), (30, 0.09), (40, 0.05), (50, 0.04)])
        40
        """
        near = 0
        for step, distance in distances:
            near = near + 1 if distance < self.threshold else 0
            if near == self.window:
                return step
        return None


def distance(one: Masks, other: Masks) -> float:
    """Share of the weights kept by one mask that the other prunes (1 - the Dice coefficient), in [0, 1].

    The paper divides by the number of all channels, which for sparse masks would always be near 0. The authors' code
    compares each mask with all of the last few, not only with the previous one.
    """
    common = kept({name: mask & other[name] for name, mask in one.items()})
    return 1 - 2 * common / max(1, kept(one) + kept(other))


def settled(when: Settled, dense: Round, prune: Callable[[Round], Masks]) -> Round:
    """The dense training up to the step where its mask has settled, or to its end (You et al. 2020).

    `prune` finds the mask for a dense training that was cut at some step.
    """
    step = when.step(drift(when, dense, prune))
    return dense if step is None else dense.cut(step)


def drift(when: Settled, dense: Round, prune: Callable[[Round], Masks]) -> list[tuple[int, float]]:
    """(step, distance of the dense network's mask to the previous one), from the second check on."""
    steps = when.looks(dense.last)
    if steps:  # one training passes all steps; otherwise each would train from the beginning
        dense.train(replace(dense, until=steps[-1], passing=steps[:-1]))
    found = ((step, prune(dense.cut(step))) for step in steps)
    return [(step, distance(one, other)) for (_, one), (step, other) in pairwise(found)]
