"""Looks phases up in the store and trains none."""

from __future__ import annotations

from collections.abc import Callable

from lottery.foundations.digests import digest_of
from lottery.rounds.round import Round
from lottery.rounds.study import Cell
from lottery.store.entries import Entry, Store
from lottery.store.phases import phase_of, specification


class NotYet(Exception):
    """A phase that is not in the store: the training of `round`."""

    def __init__(self, current: Round) -> None:
        self.round = current


def lookup(cell: Cell, store: Store) -> Callable[[Round], Entry]:
    """Finds the phases of a cell in the store and trains none; what it gives raises NotYet where one is not there."""
    study = cell.study

    def found(current: Round) -> Entry:
        phase = phase_of(study.recipe, cell.seed, current)
        if (entry := store.find(digest_of(specification(study.recipe, study.identity, phase)))) is None:
            raise NotYet(current)
        return entry

    return found
