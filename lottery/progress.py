"""Progress on a terminal that several workers share: whole lines only, each naming its cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lottery.recipes import Row
from lottery.rounds import Round
from lottery.study import Cell

EVERY_SECONDS = 5.0


class Progress:
    """One line at the end of each round, and one every few seconds within it."""

    def __init__(self, cell: Cell) -> None:
        self.rounds = len(cell.study.pruning.schedule)
        self.name = f"{cell.label} seed {cell.seed}"
        self.headline = cell.study.recipe.sample.headline
        self.shown = time.monotonic()
        self.mark: tuple[int, int, float] | None = None  # round, step and time of a moment in this training
        self.rate = 0.0
        self.cold = 2  # chunks whose pace says little: they pay for what is loaded lazily

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        now = time.monotonic()
        if self.cold or self.mark is None or self.mark[0] != current.index or step <= self.mark[1]:
            self.mark, self.cold = (current.index, step, now), max(0, self.cold - 1)
            return
        if now > self.mark[2]:
            self.rate = (step - self.mark[1]) / (now - self.mark[2])
        if now - self.shown >= EVERY_SECONDS:
            self._show(f"{self._round(current.index)}  step {step:,}/{current.last:,}{self._left(current, step)}")

    def finished(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        how = "from the store" if line["run"]["reused"] else f"{self.rate:,.0f} steps/s" if self.rate else "done"
        score = f"test {self.headline} {line[f'test_{self.headline}']:.4f}"
        left = self.rounds - line["round"]
        more = f", about {_clock(left * line['train_steps'] / self.rate)} left" if left and self.rate else ""
        self._show(f"{self._round(line['round'])}  density {line['density']:7.2%}  {score}  {how}{more}")
        self.mark = None

    def _round(self, index: int) -> str:
        return f"round {index:2}/{self.rounds}"

    def _left(self, current: Round, step: int) -> str:
        if not self.rate:
            return ""
        steps = current.last - step + (self.rounds - current.index) * (current.last - current.first)
        return f"  {self.rate:,.0f} steps/s, about {_clock(steps / self.rate)} left"

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        sys.stdout.write(f"{self.name:<22} {text}\n")  # in one piece: workers share the terminal
        sys.stdout.flush()


def _clock(seconds: float) -> str:
    """
    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
