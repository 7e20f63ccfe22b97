"""Backfill: runs of W&B made from ledgers and store alone, for cells that were tracked not at all or not whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Said
from lottery.foundations.files import write_whole
from lottery.running.segments import logged
from lottery.running.tracking import Tracker
from lottery.running.view import chain, first_step, nothing, of_chain, of_round, of_step
from lottery.running.wandb_runs import ROUNDS, Place, Told, full, open_run, table
from lottery.store import leases
from lottery.store.evaluations import evaluations
from lottery.store.folder import stores
from lottery.store.ledger import Line
from lottery.training.recipes import Row


def backfill(told: Told, folder: Path, store: Path, place: Place) -> int:
    """Logs offline what a cell's run lacks of its ledger, in a segment of its own; returns the number of rounds.

    Evaluations come from the phases in the store; of a phase that is no longer there the round alone is shown. Raises
    Said where W&B's disk is full, which would lose rows without a word.
    """
    with leases.hold(folder):
        lines, held, roots = chain(folder), logged(folder), stores(folder, store)
        steps = {row["train/step"] for row in held.rows if "train/step" in row}
        lacking = [line for line in lines if line["round"] not in held.rounds]
        if lacking:
            if said := full(folder):
                raise Said(said)
            run, before, count = open_run(told, folder, "offline", place), 0, len(held.rows)
            for line in lines:
                if line in lacking:
                    for values in _of(line, before, evaluations(roots, line["phase"])[0]):
                        if values.get("train/step") not in steps:
                            run.log(values)
                            count += 1
                before += line["train_steps"]
            if lines[-1].is_last:
                run.summary.update(of_chain(lines[-1]))
                run.log({ROUNDS: table(lines)})
                count += 1
            run.finish(exit_code=0)
            shown = {"round": lines[-1]["round"], "step": before, "before": before, "rows": count}
            write_whole(folder / Tracker.kept, json.dumps(nothing() | shown).encode())
    leases.clear(folder)
    return len(lacking)


def _of(line: Line, before: int, rows: list[Row]) -> Iterator[dict[str, Any]]:
    first = first_step(line, rows)
    for row in rows:
        yield of_step(row, before + int(row["step"]) - first)
    yield of_round(line)
