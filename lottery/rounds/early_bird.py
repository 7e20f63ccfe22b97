"""Early-bird tickets: masks settle before weights do, so the first training can be cut short (You et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lottery.foundations.durations import Steps
from lottery.pruning.masks import Masks, kept
from lottery.rounds.round import Round


@dataclass(frozen=True)
class Settled:
    """When a mask counts as settled."""

    every: Steps
    """optimizer steps between two looks; an epoch in the paper"""
    threshold: float = 0.1
    """that the distance from one look to the next must be below; on the scale of `distance`, not the paper's"""
    window: int = 5
    """looks in a row that must be so near"""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}: must be at least 1 step")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold:g}: must lie in (0, 1]")
        if self.window < 1:
            raise ValueError(f"window={self.window}: must be at least 1")

    def looks(self, steps: int) -> range:
        """The steps of a training that are looked at, the last not among them."""
        return range(self.every, steps, self.every)

    def step(self, distances: Sequence[tuple[int, float]]) -> int | None:
        """The first step, of (step, distance to the look before), at which the mask has settled; None if it has not.

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
    """Share of the weights kept by either, each counted for itself, that the other does not keep; in [0, 1].

    The paper divides by all channels, which for a sparse mask would be near 0 whatever it keeps; and the authors' code
    compares each look with all of the last few, not with the one before alone.
    """
    common = kept({name: mask & other[name] for name, mask in one.items()})
    return 1 - 2 * common / max(1, kept(one) + kept(other))


def settled(when: Settled, dense: Round, prune: Callable[[Round], Masks]) -> Round:
    """The dense network at the step at which its mask has settled, or at the end (You et al. 2020).

    `prune` gives the mask of the dense network as it was at some step.
    """
    step = when.step(drift(when, dense, prune))
    return dense if step is None else dense.cut(step)


def drift(when: Settled, dense: Round, prune: Callable[[Round], Masks]) -> list[tuple[int, float]]:
    """(step, distance of the dense network's mask to that of the look before), from the second look on."""
    steps = when.looks(dense.last)
    if steps:  # once for all of them: asked for alone, each would be trained from the beginning
        dense.train(replace(dense, until=steps[-1], passing=steps[:-1]))
    found = ((step, prune(dense.cut(step))) for step in steps)
    return [(step, distance(one, other)) for (_, one), (step, other) in pairwise(found)]
