"""The plan of a command line: what it would train, what it would reuse, and for how long. It trains nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

from lottery.algorithm import play
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check, note
from lottery.pruning.contracts import Unscorable
from lottery.rounds.arms import Arm
from lottery.rounds.prune import scoring_flops
from lottery.rounds.round import dense_ticket
from lottery.rounds.stopping import Stop
from lottery.rounds.study import Cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, LedgerError
from lottery.store.lookup import NotYet, lookup
from lottery.training.fit import fit
from lottery.training.phase import Phase

PROBE, PROBE_SECONDS = 100, 4.0  # at most so many optimizer steps are timed, and their result is discarded

Key = tuple[str, str, int, int]
"""(study, label of the arm, seed, round): names a phase before its content, and so its key in the store, is known."""


def show(jobs: Sequence[CellConfig]) -> None:
    """Prints one line for each cell, then the totals."""
    planned: set[Key] = set()
    checked: set[tuple[str, str]] = set()
    noted: set[str] = set()
    steps = evaluations = 0
    timed: dict[str, tuple[float, float]] = {}
    seconds = 0.0
    for job in jobs:
        try:
            Ledger(job.folder / NAME).lines()
        except LedgerError as damage:  # this cell would fail; the sweep would run the others
            print(f"{job}: {damage}")
            continue
        cell = build(job)
        if (job.study, job.label) not in checked:  # seeds change nothing that is checked
            check(cell)
            checked.add((job.study, job.label))
        noted |= note(cell, noted)
        needed = {} if job.finished() else to_train(cell, Store(job.config["store"]))
        new = {key: length for key, length in needed.items() if key not in planned}
        planned |= new.keys()
        if new and job.study not in timed:
            timed[job.study] = probe(cell)
            if (devices := cell.study.recipe.hardware.devices) > 1:
                print(f"{job.study}: timed in one process; {devices} will share each batch")
            say_scoring(cell)
        own = sum(new.values())
        looks = sum(-(-length // cell.study.recipe.budget.evaluate) for length in new.values())
        steps, evaluations = steps + own, evaluations + looks
        if new:
            step, evaluation = timed[job.study]
            seconds += own * step + looks * evaluation
        shared = len(needed) - len(new)
        also = f", {shared} more by cells above" if shared else ""
        rounds = len(cell.study.pruning.schedule) + 1
        print(f"{job}: {rounds} rounds, {len(new)} phases to train ({own:,} steps){also}")
    if analyses := sorted({name for job in jobs for name in job.config.get("analysis") or {}}):
        print(f"not counted: what the analyses train besides ({', '.join(analyses)})")
    cores = os.cpu_count() or 1
    print(
        f"{len(jobs)} cells, {len(planned)} phases to train, {steps:,} steps, {evaluations:,} evaluations: about "
        f"{_duration(seconds)} on one core, {_duration(seconds / min(cores, len(jobs)))} with {cores} workers"
    )


def to_train(cell: Cell, store: Store) -> dict[Key, int]:
    """The phases that a cell needs and the store lacks, those of its parent included, and their steps.

    Where steps depend on FLOPs, a layer's share of them is taken for its share of the weights; and
    all rounds of the schedule are counted, though a stopping condition may end the chain earlier.
    """
    study, budget, pruning = cell.study.name, cell.study.recipe.budget, cell.study.pruning
    rounds = len(pruning.schedule)

    def pruned(arm: Arm, first: int, last: int) -> dict[Key, int]:
        return {
            (study, arm.name, cell.seed, index): arm.length(budget, pruning.schedule[index - 1].density).steps
            - arm.first
            for index in range(max(first, 1), last + 1)
        }

    def of_parent(arm: Arm, first: int) -> dict[Key, int]:
        if pruning.stop != Stop() or arm.during:  # a condition, and changed masks, are of what each round ended with
            return pruned(arm, first, rounds)
        return pruned(arm, first, rounds - 1) if arm.iterative else {}

    needed: dict[Key, int] = {}
    played = play(cell.study.recipe, pruning, cell.arm, cell.seed, lookup(cell, store))
    for index in count():
        try:
            current = next(played)
        except StopIteration:
            return needed
        except NotYet as missing:  # this round's masks wait for the training of an earlier round
            late = missing.round
            if late.until is not None and not needed:  # of a dense training that is there, but did not keep this step
                needed[study, f"dense to step {late.until}", cell.seed, 0] = late.until
            before = of_parent(cell.arm.parent, late.index) if cell.arm.parent else {}
            return needed | pruned(cell.arm, index, rounds) | before
        for what in ("trained", "ends"):  # the second may ask what its parent measured
            try:
                getattr(current, what)
            except NotYet as missing:
                whose = cell.arm if missing.round is current else cell.arm.parent or cell.arm
                dense = {(study, "dense", cell.seed, 0): budget.steps}
                needed |= pruned(whose, index, index) if index else dense
    return needed


def probe(cell: Cell) -> tuple[float, float]:
    """Seconds of an optimizer step and of an evaluation, measured on the dense network for a few seconds."""
    recipe = cell.study.recipe
    ticket = dense_ticket(recipe, cell.seed)
    print(f"{cell.study.name}: timing some steps ...", flush=True)

    def timed(steps: int, evaluate: bool) -> float:
        phase = Phase(ticket.state, ticket.masks, 0, min(steps, recipe.budget.steps), order=0, noise=0)
        started = time.perf_counter()
        fit(recipe, phase, evaluate=evaluate)
        return time.perf_counter() - started

    timed(1, False)  # pays for what is loaded lazily
    steps = max(2, min(PROBE, recipe.budget.steps, int(PROBE_SECONDS / timed(1, False))))
    plain = timed(steps, False)
    return plain / steps, max(0.0, timed(steps, True) - plain) / max(1, -(-steps // recipe.budget.evaluate))


def say_scoring(cell: Cell) -> None:
    """Prints what scoring the weights costs, if it takes more than looking at them."""
    recipe = cell.study.recipe
    with suppress(Unscorable):  # before training
        if cell.study.pruning.schedule and (flops := scoring_flops(recipe, cell.study.pruning, cell.seed)):
            share = flops / (recipe.flops({}).dense * recipe.budget.steps)
            print(f"{cell.study.name}: scoring takes {flops:.2g} FLOPs a time, {share:.2g} of a dense training's")


def _duration(seconds: float) -> str:
    """
    >>> _duration(40), _duration(600), _duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
