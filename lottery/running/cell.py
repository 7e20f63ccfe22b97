"""Runs a cell: plays every round of an arm under one seed, trains through the store, and records in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from lottery.algorithm import play
from lottery.foundations.digests import digest_of, leaves
from lottery.rounds.round import Round
from lottery.rounds.study import Asked, Cell
from lottery.store import leases
from lottery.store.entries import Entry, Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, Line
from lottery.store.line import circumstances, line_of
from lottery.store.phases import passing, phase_of, specification
from lottery.training.fit import fit
from lottery.training.phase import Diverged
from lottery.training.recipes import Row


class Callback(Protocol):
    """Is told of a cell's progress, to show or to count it. An exception that it raises ends the cell."""

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        """Training of a round has reached `step`; `row` is the evaluation there, if there was one."""

    def finished(self, line: Line, rows: Sequence[Row]) -> None:
        """A round was recorded as `line`; `rows` are all its evaluations."""


def record_cell(
    cell: Cell,
    folder: Path,
    store: Store,
    callbacks: Sequence[Callback] = (),
    analyses: Mapping[str, Asked] | None = None,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Plays every round of a cell and records it in the cell's ledger; what an analysis finds, in the analysis's own.

    `within` gives a context that is entered once no other process works in the folder, for what else is written there.
    Raises Lost if another process has taken the cell over, and LedgerError, before anything is trained, if a ledger
    has a round that this cell would not reproduce.
    """
    ledger = Ledger(folder / NAME)
    asked = {name: (each, Ledger(folder / f"{name}.jsonl")) for name, each in (analyses or {}).items()}
    with leases.hold(folder, store.waiting) as lease, _only_while_ours(lease):
        with within():
            _record(cell, ledger, asked, TrainOnce(cell, store, callbacks, lease.glance), lease)
        leases.clear(folder)


def _record(
    cell: Cell, ledger: Ledger, asked: Mapping[str, tuple[Asked, Ledger]], phases: TrainOnce, lease: leases.Lease
) -> None:
    study = cell.study
    ledger.expect(about(cell))
    for each, found in asked.values():
        found.expect(about(cell) | {"analysis": each.digest})
    for current in play(study.recipe, study.pruning, cell.arm, cell.seed, phases):
        started = time.time()
        for recorded in (ledger, *(found for _, found in asked.values())):
            phases.expect(recorded, current)
        line = line_of(cell, current)  # trains the round
        line["run"] = circumstances(current, started, study.recipe.hardware) | {"drew": phases.drew(but=line["phase"])}
        lease.check()
        ledger.record(line)
        for callback in phases.callbacks:
            callback.finished(line, current.trained.rows)
        for each, found in asked.values():
            analyse(each, found, phases, current, line)


@contextmanager
def _only_while_ours(lease: leases.Lease) -> Iterator[None]:
    """Raises Lost in place of errors after another process has taken over: that process may have caused them."""
    try:
        yield
    except Exception:
        lease.check()
        raise


class TrainOnce:
    """Trains the rounds of a cell; a phase that the store has is not trained again. `check` may raise to stop it."""

    def __init__(
        self, cell: Cell, store: Store, callbacks: Sequence[Callback] = (), check: Callable[[], None] = lambda: None
    ) -> None:
        self.cell, self.store, self.callbacks, self.check = cell, store, callbacks, check
        self.asked = set[str]()

    def expect(self, ledger: Ledger, current: Round) -> None:
        """Raises LedgerError if a ledger has the round with another phase than would be trained now."""
        lines, study = ledger.lines(), self.cell.study
        if current.index >= len(lines):
            return
        spec = specification(study.recipe, study.identity, phase_of(study.recipe, self.cell.seed, current))
        was, now = lines[current.index].get("phase"), digest_of(spec)
        if was != now:
            differs = unlike(self.store.specification(str(was)), spec) or [f"phase {was} there, {now} now"]
            raise ledger.refusal(current.index, "; ".join(differs))

    def __call__(self, current: Round) -> Entry:
        study = self.cell.study
        phase = phase_of(study.recipe, self.cell.seed, current)
        spec = specification(study.recipe, study.identity, phase)
        waypoints = {step: passing(spec, step) for step in current.passing}

        def watch(step: int, row: Row | None) -> None:
            self.check()
            for callback in self.callbacks:
                callback.advanced(current, step, None if current.copy else row)

        try:
            entry = self.store.obtain(
                spec,
                lambda keeper: fit(study.recipe, phase, keeper, waypoints, watch, evaluate=current.until is None),
                waypoints,
            )
        except Diverged as error:
            raise Diverged(f"{self.cell.label}, seed {self.cell.seed}, round {current.index}: {error}") from error
        self.asked.add(entry.key)
        return entry

    def drew(self, but: str = "") -> list[str]:
        """Keys of the phases used since the last call, those of other arms (a parent) included, except `but`."""
        found = sorted(self.asked - {but})
        self.asked.clear()
        return found


def about(cell: Cell) -> dict[str, Any]:
    """The entries of a cell's ledger lines that are known before anything is trained."""
    study = cell.study
    who = {"study": study.name, "arm": cell.label, "seed": cell.seed, "rounds": len(study.pruning.schedule)}
    return who | {"data": study.recipe.data.digest[:16], "setting": cell.digest}


def unlike(was: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """How two specifications of a phase differ, as parts of a sentence; empty if the first is not known.

    Weights and masks are named only if nothing else differs, because a difference in them follows from earlier ones.

    >>> unlike({"torch": "2.5", "state": "a"}, {"torch": "2.6", "state": "b", "masks": "c"})
    ['torch 2.5 there, 2.6 now']
    """
    if was is None:
        return []
    before, after = ({".".join(key): value for key, value in leaves(spec)} for spec in (was, now))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    causes = [key for key in keys if key not in ("state", "masks")] or keys
    return [f"{key} {before.get(key)} there, {after.get(key)} now" for key in causes]


def analyse(asked: Asked, ledger: Ledger, phases: TrainOnce, current: Round, line: Line) -> None:
    """Records what an analysis finds in a round, once: a second time, on another machine, last digits might differ.

    Raises LedgerError, before anything is trained, if the ledger has the round for another line or other settings.
    """
    keys = ("study", "arm", "seed", "round", "rounds", "density", "data", "setting", "phase", "stopped")
    of = {key: line[key] for key in keys if key in line} | {"analysis": asked.digest}
    if ledger.expect(of):
        return
    found = asked.analysis(phases.cell, current)
    ledger.record({**found, **of, "run": {"drew": phases.drew()}})
