"""Finds phases in a store and trains none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lottery.foundations.digests import digest_of
from lottery.rounds.round import Round
from lottery.rounds.study import Cell
from lottery.store.entries import Entry, Store
from lottery.store.folder import stores
from lottery.store.phases import phase_of, specification


class NotYet(Exception):
    """The store does not hold the phase of `round`."""

    def __init__(self, current: Round) -> None:
        self.round = current


def lookup(cell: Cell, store: Store) -> Callable[[Round], Entry]:
    """A function that finds the phase of a cell's round in the store, and raises NotYet where there is none."""
    study = cell.study

    def found(current: Round) -> Entry:
        phase = phase_of(study.recipe, cell.seed, current)
        if (entry := store.find(digest_of(specification(study.recipe, study.identity, phase)))) is None:
            raise NotYet(current)
        return entry

    return found


def holding(cell: Path, recorded: Path, line: Mapping[str, Any]) -> tuple[Store, Entry]:
    """The store that has the phase of a ledger line, and the phase.

    Raises FileNotFoundError, naming the stores that it may be in.
    """
    roots = stores(cell, recorded)
    for store in (Store(root) for root in roots if root.is_dir()):
        if entry := store.find(line["phase"]):
            return store, entry
    neither = " nor ".join(map(str, roots))
    raise FileNotFoundError(f"the phase {line['phase']} of round {line['round']} is in neither {neither}")
