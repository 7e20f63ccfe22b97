"""A view of a cell's ledger elsewhere, in W&B or a logger: each row shown once, however often the cell is interrupted.

Metrics have axes of their own: `train/step` counts optimizer steps over all rounds, `round/density` is the kept share
of weights. A file beside the ledger says what has been shown, so that a restarted cell shows nothing twice. Training
goes on if the view fails.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.rounds.round import Round
from lottery.running.wandb_runs import Told, cause
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, Line
from lottery.training.recipes import Row

COSTS = ("total_flops", "total_flops_dense")


def of_round(line: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of a round: every number of its ledger line, and the density of each layer.

    >>> of_round({"round": 1, "arm": "imp", "density": 0.8, "layer_densities": {"fc.weight": 0.8}})
    {'round/round': 1, 'round/density': 0.8, 'round/density/fc.weight': 0.8}
    """
    numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
    layers = {f"density/{name}": value for name, value in line["layer_densities"].items()}
    return {f"round/{key}": value for key, value in {**numbers, **layers}.items()}


def of_step(row: Row, step: int) -> dict[str, float]:
    """What is shown of an evaluation, at a step counted over all rounds."""
    return {f"train/{k}": v for k, v in row.items() if k != "step" and v is not None} | {"train/step": step}


def of_chain(line: Line) -> dict[str, Any]:
    """What is shown of a chain whose last round is `line`, stopped ones too: what it came to, and what that cost.

    >>> of_chain(Line(density=0.5, compression_ratio=2.0, test_loss=0.1, val_loss=0.2, stopped="density 0.5"))
    {'final/density': 0.5, 'final/compression_ratio': 2.0, 'final/test_loss': 0.1, 'final/stopped': 'density 0.5'}
    """
    measured = [key for key in line if key.startswith(("test_", "early_stop_")) and isinstance(line[key], int | float)]
    kept = ("density", "compression_ratio", *measured, *COSTS, "stopped", "collapsed")
    return {f"final/{key}": line[key] for key in kept if key in line}


def nothing() -> dict[str, Any]:
    """What a view has shown before its first row, as the file beside the ledger says it.

    Steps count over all rounds. `before`: steps of earlier rounds; `gaps`: spans whose rows another cell measured, and
    which are shown when the round ends; `rows`: how many rows were shown in all.
    """
    return {"round": -1, "step": 0, "before": 0, "gaps": [], "rows": 0}


def first_step(line: Line, rows: Sequence[Row]) -> int:
    """The step at which a round's training began, which is not the recipe's first where it was rewound."""
    return int(rows[-1]["step"]) - line["train_steps"] if rows else 0


class View(ABC):
    """Shows a cell's rounds and evaluations in one place, which is opened at the first one not yet shown."""

    called: str
    """What messages call it."""
    kept: str
    """The file beside the ledger that says what has been shown."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.run: Any = None
        self.begun, self.following = False, -1
        self.shown = nothing()

    @abstractmethod
    def _begin(self) -> Any:
        """Opens the place to show in; None, having said why, if that can't be."""

    def open(self, job: Told, folder: Path) -> None:
        """Sets the cell to show. What was shown before is read later, once this process holds the cell's lease."""
        self.job, self.folder, self.cursor = job, folder, folder / self.kept

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        if not self._new(current.index):
            return
        if self.following != current.index:  # rows before another cell's checkpoint were shown there, not here
            self.following = current.index
            self.shown["gaps"].append([self.shown["step"], self.shown["before"] + step - current.first])
        if row is not None:
            self._row(row, current.first, [])

    def finished(self, line: Line, rows: Sequence[Row]) -> None:
        if not self._new(line["round"]):
            return
        first = first_step(line, rows)
        for row in rows:
            self._row(row, first, self.shown["gaps"])
        self._log(of_round(line))
        if line.is_last:
            self._tell(lambda run: run.summary.update(of_chain(line)))
            self._conclude()
        steps = self.shown["before"] + line["train_steps"]
        self.shown |= {"round": line["round"], "step": steps, "before": steps, "gaps": []}
        self._keep()

    def close(self, failed: bool) -> None:
        """Ends the view, marked as failed if the cell has failed."""
        if self.run is not None:
            try:
                self.run.finish(exit_code=int(failed))
            except Exception as error:
                say(f"{self.called} did not finish ({cause(error)}); the ledger has everything")

    def _conclude(self) -> None:  # noqa: B027  # most views have nothing more
        """Shows what is shown once a chain has ended."""

    def _new(self, index: int) -> bool:
        """Whether a round is still to be shown; if so, opens the view first."""
        if not self.begun and self.cursor.exists():
            with suppress(OSError, ValueError):  # damaged by a power cut: some rows may be shown twice
                self.shown |= json.loads(self.cursor.read_text())
        new = index > self.shown["round"]
        if new and not self.begun and self.mode != "disabled":
            self.run = self._begin()
        self.begun = self.begun or new
        return new

    def _row(self, row: Row, first: int, gaps: list[list[int]]) -> None:
        """Shows one evaluation, unless it was shown before."""
        step = self.shown["before"] + int(row["step"]) - first
        if gap := next((gap for gap in gaps if gap[0] < step < gap[1]), None):
            gap[0] = step
        elif step > self.shown["step"]:
            self.shown["step"] = step
        else:
            return
        self._log(of_step(row, step))
        self._keep()

    def _log(self, values: Mapping[str, Any]) -> None:
        self._tell(lambda run: run.log(dict(values)))
        self.shown["rows"] += self.run is not None

    def _tell(self, act: Callable[[Any], object]) -> None:
        if self.run is not None:
            try:
                act(self.run)
            except Exception as error:
                say(f"{self.called} stopped ({cause(error)}); going on without it, the ledger has everything")
                self.run = None

    def _keep(self) -> None:
        """Notes what was shown, in one write over what stood there, which a kill does not tear.

        A new file in its place would be safe from power cuts too, but ext4 takes milliseconds of each row for that.
        """
        if self.run is None:
            return
        with suppress(OSError):  # best effort: after a restart some rows may be shown twice
            file = os.open(self.cursor, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(file, json.dumps(self.shown).encode().ljust(os.fstat(file).st_size), 0)
            finally:
                os.close(file)


def chain(folder: Path) -> list[Line]:
    """The rounds of a cell that are in its ledger."""
    return Ledger(folder / NAME).lines()


def say(text: str) -> None:
    """Says something on the terminal that several workers share."""
    print(text, file=sys.stderr, flush=True)
