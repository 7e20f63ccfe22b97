"""The plan of a command line: what it would train, what it would reuse, and for how long. It trains nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count

from lottery.algorithm import play
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check, note
from lottery.pruning.contracts import Criterion, Target, Unscorable
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
from lottery.training.recipes import Budget

PROBE, PROBE_SECONDS = 100, 4.0  # at most so many optimizer steps are timed, and their result is discarded

Key = tuple[str, str, int, int]
"""(study, label of the arm, seed, round): names a phase before its content, and so its key in the store, is known."""


def show(jobs: Sequence[CellConfig]) -> None:
    """Prints one line for each cell, then the totals."""
    planned: set[Key] = set()
    checked: set[tuple[str, str]] = set()
    noted: set[str] = set()
    steps = evaluations = scorings = 0
    costs: dict[tuple[str, str], float] = {}
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
        own = sum(new.values())
        looks = sum(-(-length // cell.study.recipe.budget.evaluate) for length in new.values())
        steps, evaluations = steps + own, evaluations + looks
        times, flops = scoring(cell, needed, new, costs)
        scorings += times
        if new:
            step, evaluation = timed[job.study]
            seconds += own * step + looks * evaluation
        if flops:  # as fast as those of a step
            seconds += flops / cell.study.recipe.flops({}).dense * timed[job.study][0]
        shared = len(needed) - len(new)
        also = f", {shared} more by cells above" if shared else ""
        rounds = len(cell.study.pruning.schedule) + 1
        print(f"{job}: {rounds} rounds, {len(new)} phases to train ({own:,} steps){also}{scored(cell, times, flops)}")
    if analyses := sorted({name for job in jobs for name in job.config.get("analysis") or {}}):
        print(f"not counted: what the analyses train besides ({', '.join(analyses)})")
    cores = os.cpu_count() or 1
    also = f", {scorings:,} scorings" if scorings else ""
    print(
        f"{len(jobs)} cells, {len(planned)} phases to train, {steps:,} steps, {evaluations:,} evaluations{also}: about "
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


def scoring(
    cell: Cell, needed: Mapping[Key, int], new: Mapping[Key, int], costs: dict[tuple[str, str], float]
) -> tuple[int, float]:
    """How often a cell scores weights at more than the cost of looking at them, and the FLOPs of all that.

    Masks between rounds are found again by each cell, whoever trains; those that change while it trains by who does.
    `costs` remembers what a criterion takes.
    """
    if not needed:
        return 0, 0.0
    study, arm = cell.study, cell.arm.parent or cell.arm
    rule, budget = arm.during, study.recipe.budget
    between = sum(between_rounds(arm, target, budget) for target in study.pruning.schedule)
    own = getattr(rule, "criterion", None)
    changes = 0
    for _, name, _, index in new:
        if rule and own and index and name == arm.name:
            of = arm.length(budget, study.pruning.schedule[index - 1].density).steps
            changes += sum(step >= arm.first for step in rule.steps(of))
    times, flops = 0, 0.0
    label = "" if own is study.pruning.criterion else arm.name
    for many, which, criterion in ((between, "", study.pruning.criterion), (changes, label, own)):
        if many and criterion:
            if (key := (study.name, which)) not in costs:
                costs[key] = _flops(cell, criterion)
            times += many if costs[key] else 0
            flops += many * costs[key]
    return times, flops


def between_rounds(arm: Arm, target: Target, budget: Budget) -> int:
    """How often an arm scores weights to find a round's masks."""
    if arm.given or (arm.during and arm.during.begins_dense):
        return 0
    looks = len(arm.early.looks(budget.steps)) if arm.early else 0
    return (looks + 1) * len(arm.path(target))


def scored(cell: Cell, times: int, flops: float) -> str:
    """What scoring costs, for the end of a cell's line."""
    if not times:
        return ""
    share = flops / (cell.study.recipe.flops({}).dense * cell.study.recipe.budget.steps)
    return f", {times:,} scorings ({flops:.2g} FLOPs, {share:.2g} of a dense training's)"


def _flops(cell: Cell, criterion: Criterion) -> float:
    with suppress(Unscorable):  # before training
        return scoring_flops(cell.study.recipe, replace(cell.study.pruning, criterion=criterion), cell.seed)
    return 0.0


def _duration(seconds: float) -> str:
    """
    >>> _duration(40), _duration(600), _duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
