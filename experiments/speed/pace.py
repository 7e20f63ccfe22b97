"""The speed of the framework's training loop, without startup."""

from __future__ import annotations

import time
from collections.abc import Callable

from lottery.pruning.masks import Masks
from lottery.training.fit import fit
from lottery.training.phase import Phase
from lottery.training.recipes import Recipe, Row


def pace(recipe: Recipe, masks: Masks, steps: int = 600, clock: Callable[[], float] = time.process_time) -> float:
    """CPU seconds per step of `lottery.training.fit.fit`, without its first chunks and without evaluation."""
    marks = dict[int, float]()

    def watch(step: int, row: Row | None) -> None:
        marks[step] = clock()

    state, sparse = recipe.network().state_dict(), recipe.sparse_weights(masks)
    fit(recipe, Phase(state, masks, 0, steps, order=0, noise=0, sparse=sparse), watch=watch, evaluate=False)
    first = min(step for step in marks if step >= steps // 5)
    return (marks[steps] - marks[first]) / (steps - first)
