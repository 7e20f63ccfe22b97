"""Attempts: how often a job was started again for a cell, and whether that led anywhere.

`slurm.json` beside the ledger names the job that is to train the cell, which of its starts was the last (Slurm counts
them from 0), the position (round, step, copy) that training first came to after it, and how many starts in a row came
no further. A job that always ends before its next checkpoint would be queued again for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Said
from lottery.foundations.files import plain, write_whole
from lottery.foundations.job import Task
from lottery.store.folder import JOB

if TYPE_CHECKING:
    from lottery.rounds.round import Round
    from lottery.training.recipes import Row

MOST = 5  # starts that come no further


class Stuck(Said):
    """A cell that its job never brings to a checkpoint."""


def read(folder: Path) -> dict[str, Any]:
    """What is known of a cell's job; empty if nothing is."""
    return plain(folder / JOB)


def submitted(folder: Path, job: str) -> None:
    """Notes which job is to train a cell."""
    if read(folder).get("job") != job:  # it may have begun already
        _write(folder, {"job": job})


class Attempts:
    """Counts the starts of a cell's job: a callback that hears where training goes on; `begin` may end the cell."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.heard = folder, False
        was = read(folder)
        again = was.get("job") == task.job and "start" in was
        counted = again and was["start"] == task.restarts
        self.note: dict[str, Any] = {
            "job": task.job,
            "start": task.restarts,
            "starts": was["starts"] + (not counted) if again else 1,
            "position": was["position"] if again else None,
        }

    def begin(self) -> None:
        """Notes this start, once however often it is called. Raises Stuck if there were too many from one position."""
        if self.note["starts"] > MOST:
            index, step, *_ = self.note["position"] or (0, 0)
            raise Stuck(
                f"job {self.note['job']} was started {MOST} times about round {index}, step {step} without coming to "
                "its next checkpoint: its time, its memory or hardware.checkpoint_seconds does not suffice, or it is "
                "preempted each time"
            )
        _write(self.folder, self.note)

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        if not self.heard:
            self.heard, position = True, [current.index, step, current.copy]
            if position != self.note["position"]:
                self.note |= {"starts": 1, "position": position}
                with suppress(OSError):  # a full disk is for the work itself to stumble over
                    _write(self.folder, self.note)

    def finished(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        pass

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While another process trains what this one needs: to end meanwhile is no failure, and does not count."""
        self._count(-1)
        yield  # without `finally`: a start that ends while it waits must not be counted after all
        self._count(+1)

    def _count(self, change: int) -> None:
        self.note["starts"] += change
        with suppress(OSError):
            _write(self.folder, self.note)


def _write(folder: Path, note: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / JOB, json.dumps(note).encode())
