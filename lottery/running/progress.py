"""Progress of a cell, as lines on a terminal that several workers share and as a heartbeat file."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from lottery.foundations.files import write_whole
from lottery.foundations.job import here
from lottery.rounds.round import Round
from lottery.rounds.study import Cell
from lottery.store.folder import BEAT
from lottery.store.ledger import Line
from lottery.training.recipes import Row

EVERY_SECONDS = 5.0


class Progress:
    """Prints a line after each round and every few seconds within it, and as often writes a heartbeat.

    `study` is what the lines begin with, where there are several.
    """

    def __init__(self, cell: Cell, folder: Path, study: str = "") -> None:
        self.rounds = len(cell.study.pruning.schedule)
        self.name = f"{study}{f'{cell.label} seed {cell.seed}':<22}"
        self.headline = cell.study.recipe.headline
        self.folder = folder
        self.shown = time.monotonic()
        self.beaten = -math.inf  # so that the first chunk writes a heartbeat: the cell has begun and does not wait
        self.mark: tuple[int, int, float] | None = None  # round, step and time from which the rate is measured
        self.rate = 0.0
        self.cold = 2  # first chunks are slow, because they load lazily, and are not timed

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        now = time.monotonic()
        steps = current.last - step + (self.rounds - current.index) * (current.last - current.first)
        if self.cold or self.mark is None or self.mark[0] != current.index or step <= self.mark[1]:
            self.mark, self.cold = (current.index, step, now), max(0, self.cold - 1)
        else:
            if now > self.mark[2]:
                self.rate = (step - self.mark[1]) / (now - self.mark[2])
            if now - self.shown >= EVERY_SECONDS:
                again = f", copy {current.copy}" if current.copy else ""  # an analysis trains the round again
                self._show(f"{self._round(current.index)}{again}  step {step:,}/{current.last:,}{self._left(steps)}")
        if now - self.beaten >= EVERY_SECONDS:
            self._beat(current.index, step, current.last, steps)

    def finished(self, line: Line, rows: Sequence[Row]) -> None:
        reused, left = line["run"]["reused"], 0 if line.is_last else self.rounds - line["round"]
        how = "from the store" if reused else _pace(self.rate) if self.rate else "done"
        value = line[f"test_{self.headline.name}"]
        shown = "is no finite number" if value is None else f"{value:{'.4f' if self.headline.share else '.4g'}}"
        score = f"test {self.headline.name} {shown}"
        steps = left * line["train_steps"]
        more = f", about {_clock(steps / self.rate)} left" if left and self.rate else ""
        self._show(f"{self._round(line['round'])}  density {line['density']:7.2%}  {score}  {how}{more}")
        if lost := line.get("collapsed"):
            self._show(f"{self._round(line['round'])}  collapsed: {lost}")
        # rounds from the store take milliseconds each, as much as writing a heartbeat
        if not reused or self.shown - self.beaten >= EVERY_SECONDS:
            step = int(rows[-1]["step"])
            self._beat(line["round"], step, step, steps)
        self.mark = None

    def _round(self, index: int) -> str:
        return f"round {index:2}/{self.rounds}"

    def _left(self, steps: int) -> str:
        return f"  {_pace(self.rate)}, about {_clock(steps / self.rate)} left" if self.rate else ""

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        sys.stdout.write(f"{self.name} {text}\n")  # in one write, because workers share the terminal
        sys.stdout.flush()

    def _beat(self, index: int, step: int, last: int, left: int) -> None:
        """Writes a heartbeat into the folder; `left` is the number of steps that the whole cell still takes."""
        self.beaten = time.monotonic()
        task = here()
        beat = {
            "round": index,
            "rounds": self.rounds,
            "step": step,
            "last": last,
            "steps_per_second": round(self.rate, 2),
            "seconds_left": round(left / self.rate) if self.rate else None if left else 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": task.job if task else None,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # best effort: on a full disk the work itself will raise
            write_whole(self.folder / BEAT, json.dumps(beat).encode())


def _pace(rate: float) -> str:
    """
    >>> _pace(1234.5), _pace(0.21)
    ('1,234 steps/s', '0.2 steps/s')
    """
    return f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.1f} steps/s"


def _clock(seconds: float) -> str:
    """
    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
