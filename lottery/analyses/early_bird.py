"""Mask distances during the dense training, as for early-bird tickets (You et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lottery.rounds.early_bird import Settled, drift
from lottery.rounds.prune import prune
from lottery.rounds.round import Round, dense_round
from lottery.rounds.search import rewinding_point
from lottery.rounds.study import Cell


@dataclass(frozen=True)
class EarlyBird:
    """For each pruned round, how far the one-shot mask of its density moves between checks of the dense training."""

    when: Settled

    def __call__(self, cell: Cell, current: Round) -> dict[str, Any]:
        if current.index == 0:
            return {"settled_step": None, "distances": []}
        recipe, pruning = cell.study.recipe, cell.study.pruning
        dense, target = dense_round(recipe, cell.seed, current.train), pruning.schedule[current.index - 1].of_dense()
        start = rewinding_point(cell.arm, dense)
        found = drift(
            self.when,
            dense,
            lambda on: prune(recipe, pruning, on.trained.state, on.trained.masks, start, target, cell.seed, (1, 0)),
        )
        return {
            "settled_step": self.when.step(found),
            "distances": [{"step": step, "distance": round(moved, 9)} for step, moved in found],
        }
