"""The analysis of early-bird tickets: mask distances during the dense training (You et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lottery.rounds.early_bird import Settled, drift
from lottery.rounds.prune import prune
from lottery.rounds.round import Round, dense_round
from lottery.rounds.study import Cell


@dataclass(frozen=True)
class EarlyBird:
    """In each pruned round's line: how one-shot masks of its density move from look to look of the dense training."""

    when: Settled

    def __call__(self, cell: Cell, current: Round) -> dict[str, Any]:
        if current.index == 0:
            return {"settled_step": None, "distances": []}
        recipe, pruning = cell.study.recipe, cell.study.pruning
        dense, target = dense_round(recipe, cell.seed, current.train), pruning.schedule[current.index - 1].of_dense()
        found = drift(
            self.when,
            dense,
            lambda on: prune(recipe, pruning, on, on.trained.masks, dense.ticket.state, target, cell.seed),
        )
        return {
            "settled_step": self.when.step(found),
            "distances": [{"step": step, "distance": round(moved, 9)} for step, moved in found],
        }
