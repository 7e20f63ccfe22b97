"""Studies, and cells: one arm of a study with one seed."""

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
    """Everything that affects results, except arm and seed."""

    name: str
    recipe: Recipe
    pruning: Pruning
    identity: Mapping[str, Any]
    """the recipe as plain data, which identifies a phase of training together with its ticket, steps and seeds"""


@dataclass(frozen=True)
class Cell:
    """One arm of a study with one seed: one ledger, one W&B run."""

    study: Study
    arm: Arm
    label: str
    seed: int
    digest: str = ""
    """digest of the settings and user code of pruning and arm; the same for every seed"""


class Analysis(Protocol):
    """Further measurements of a round, recorded in a separate ledger, `<name>.jsonl` beside the cell's."""

    def __call__(self, cell: Cell, current: Round) -> Mapping[str, Any]:
        """Returns plain data and must be deterministic; may train further phases."""


@dataclass(frozen=True)
class Asked:
    """An analysis that the user requested."""

    analysis: Analysis
    digest: str
    """digest of its settings and user code"""
