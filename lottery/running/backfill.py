"""Backfill: runs of W&B made from ledgers and store alone, for cells that were tracked not at all or not whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Said
from lottery.foundations.files import plain, write_whole
from lottery.running.segments import logged
from lottery.running.view import chain, of_chain, of_round, of_step
from lottery.running.wandb_runs import ROUNDS, Place, Told, full, open_run, table
from lottery.store import leases
from lottery.store.entries import META
from lottery.store.ledger import Line
from lottery.training.recipes import Row


def backfill(told: Told, folder: Path, store: Path, place: Place) -> int:
    """Logs offline what a cell's run lacks of its ledger, in a segment of its own; returns the number of rounds.

    Evaluations come from the phases in the store; of a phase that is no longer there the round alone is shown. Raises
    Said where W&B's disk is full, which would lose rows without a word.
    """
    with leases.hold(folder):
        lines, held = chain(folder), logged(folder)
        steps = {row["train/step"] for row in held.rows if "train/step" in row}
        lacking = [line for line in lines if line["round"] not in held.rounds]
        if lacking:
            if said := full(folder):
                raise Said(said)
            run, before, count = open_run(told, folder, "offline", place), 0, len(held.rows)
            for line in lines:
                if line in lacking:
                    for values in _of(line, before, _measured(line, store, folder)):
                        if values.get("train/step") not in steps:
                            run.log(values)
                            count += 1
                before += line["train_steps"]
            if lines[-1].is_last:
                run.summary.update(of_chain(lines[-1]))
                run.log({ROUNDS: table(lines)})
                count += 1
            run.finish(exit_code=0)
            shown = {"round": lines[-1]["round"], "step": before, "before": before, "gaps": [], "rows": count}
            write_whole(folder / "wandb.json", json.dumps(shown).encode())
    leases.clear(folder)
    return len(lacking)


def _of(line: Line, before: int, rows: list[Row]) -> Iterator[dict[str, Any]]:
    first = int(rows[-1]["step"]) - line["train_steps"] if rows else 0
    for row in rows:
        yield of_step(row, before + int(row["step"]) - first)
    yield of_round(line)


def _measured(line: Line, store: Path, folder: Path) -> list[Row]:
    """The evaluations of a round, from the store that the cell was recorded with or the one beside its study."""
    for root in (store, folder.resolve().parents[2] / "store"):
        if rows := plain(root / line["phase"] / META).get("phase", {}).get("rows"):
            return rows
    return []
