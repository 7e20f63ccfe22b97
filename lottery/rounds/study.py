"""Cells: an arm of a study under one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.rounds.round import Round
from lottery.training.recipes import Recipe


@dataclass(frozen=True)
class Study:
    """Everything that can change a number except arm and seed."""

    name: str
    recipe: Recipe
    pruning: Pruning
    identity: Mapping[str, Any]
    """the recipe as plain data: what a phase of training depends on besides its ticket, steps and seeds"""


@dataclass(frozen=True)
class Cell:
    """One arm of a study under one seed: one ledger, one W&B run."""

    study: Study
    arm: Arm
    label: str
    seed: int
    digest: str = ""
    """digest of all that pruning and the arm are made of, a user's own code among it: the same for every seed"""


class Analysis(Protocol):
    """Looks closer at a round; what it finds stands in a ledger of its own, `<name>.jsonl` beside the cell's."""

    def __call__(self, cell: Cell, current: Round) -> Mapping[str, Any]:
        """Plain data, the same however often it is asked for; may train more phases."""


@dataclass(frozen=True)
class Asked:
    """An analysis that was asked for."""

    analysis: Analysis
    digest: str
    """digest of its settings, and of a user's own code"""
