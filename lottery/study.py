"""A study's cells: every round of an arm under one seed, through the store into the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lottery import leases
from lottery.cells import Cell
from lottery.chains import play
from lottery.ledger import NAME, Ledger
from lottery.lines import circumstances, describe
from lottery.loop import Diverged
from lottery.phases import phase_of, specification
from lottery.recipes import Row
from lottery.rounds import Round
from lottery.store import Entry, Store
from lottery.training import fit


class Analysis(Protocol):
    """Looks closer at a round; what it finds stands in a ledger of its own, `<name>.jsonl` beside the cell's."""

    def __call__(self, cell: Cell, current: Round) -> Mapping[str, Any]:
        """Plain data, the same however often it is asked for; may train more phases."""


@dataclass(frozen=True)
class Asked:
    """An analysis that was asked for."""

    analysis: Analysis
    setting: str
    """digest of its settings, and of a user's own code"""


class View(Protocol):
    """Shows what happens; losing it loses nothing."""

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        """A round's training came to `step` and, where `row` is given, measured it."""

    def finished(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """A round is in the ledger; `rows` are all its evaluations."""


def run(
    cell: Cell, folder: Path, store: Store, views: Sequence[View] = (), analyses: Mapping[str, Asked] | None = None
) -> None:
    """Plays every round of a cell and records each in its ledger, and what analyses find in theirs.

    Raises leases.Lost if another process has taken the cell over.
    """
    study, ledger = cell.study, Ledger(folder / NAME)
    with leases.hold(folder, store.waiting) as lease, _only_while_ours(lease):
        phases = Phases(cell, store, views, lease.glance)
        for current in play(study.recipe, study.pruning, cell.arm, cell.seed, phases):
            started = time.time()
            line = describe(cell, current)
            line["run"] = circumstances(current, started) | {"drew": phases.drew(but=line["phase"])}
            lease.check()
            ledger.record(line)
            for view in views:
                view.finished(line, current.trained.rows)
            for name, asked in (analyses or {}).items():
                analyse(asked, Ledger(folder / f"{name}.jsonl"), phases, current, line)
        leases.clear(folder)


@contextmanager
def _only_while_ours(lease: leases.Lease) -> Iterator[None]:
    """What goes wrong after another process has taken over is that one's doing, and no fault of the cell."""
    try:
        yield
    except Exception:
        lease.check()
        raise


class Phases:
    """Trains the rounds of a cell through the store; `check` may raise to stop it."""

    def __init__(
        self, cell: Cell, store: Store, views: Sequence[View] = (), check: Callable[[], None] = lambda: None
    ) -> None:
        self.cell, self.store, self.views, self.check = cell, store, views, check
        self.asked = set[str]()

    def __call__(self, current: Round) -> Entry:
        study = self.cell.study
        phase = phase_of(study.recipe, self.cell.seed, current)
        spec = partial(specification, study.recipe, study.identity)
        waypoints = {step: spec(replace(phase, last=step)) for step in current.passing}

        def watch(step: int, row: Row | None) -> None:
            self.check()
            for view in self.views:
                view.advanced(current, step, None if current.copy else row)

        try:
            entry = self.store.obtain(
                spec(phase),
                phase.masks,
                lambda desk: fit(study.recipe, phase, desk, waypoints, watch, evaluate=current.until is None),
                waypoints,
            )
        except Diverged as error:
            raise Diverged(f"{self.cell.label}, seed {self.cell.seed}, round {current.index}: {error}") from error
        self.asked.add(entry.key)
        return entry

    def drew(self, but: str = "") -> list[str]:
        """Keys of the phases asked for since this was last called, those of other arms' rounds among them."""
        found = sorted(self.asked - {but})
        self.asked.clear()
        return found


def analyse(asked: Asked, ledger: Ledger, phases: Phases, current: Round, line: Mapping[str, Any]) -> None:
    """Records what an analysis finds of a round, once: on another kind of node a last digit might differ.

    Raises LedgerError if the ledger has the round under other settings, and something else was found.
    """
    keys = ("study", "arm", "seed", "round", "rounds", "density", "data", "setting", "phase", "stopped")
    of = {key: line[key] for key in keys if key in line} | {"analysis": asked.setting}
    lines = ledger.lines()
    if current.index < len(lines) and of.items() <= lines[current.index].items():
        return
    found = asked.analysis(phases.cell, current)
    ledger.record({**of, **found, "run": {"drew": phases.drew()}})
