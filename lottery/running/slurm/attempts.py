"""Attempts: how often a job was started for a cell without progress. It would else be queued again for ever.

`slurm.json` beside the ledger holds the job that is to train the cell; its last start, which Slurm counts from 0; the
position (round, step, copy) at which training resumed after that start; and the number of consecutive starts that
resumed at this position, which means that none of them reached another checkpoint.
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
    from lottery.store.ledger import Line
    from lottery.training.recipes import Row

MOST = 5  # starts without progress


class Stuck(Said):
    """A cell's job was started repeatedly and never reached a checkpoint."""


def read(folder: Path) -> dict[str, Any]:
    """What `slurm.json` says of a cell's job; empty if there is none."""
    return plain(folder / JOB)


def submitted(folder: Path, job: str) -> None:
    """Writes down which job is to train a cell."""
    if read(folder).get("job") != job:  # else the job has begun and written more
        _write(folder, {"job": job})


class Attempts:
    """Counts the starts of a cell's job; as a callback it learns where training resumes. `begin` may end the cell."""

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
        """Writes this start down. Idempotent. Raises Stuck if too many starts resumed at the same position."""
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
                with suppress(OSError):  # best effort: on a full disk the work itself will raise
                    _write(self.folder, self.note)

    def finished(self, line: Line, rows: Sequence[Row]) -> None:
        pass

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context while another process trains what this one needs: a start that ends meanwhile is not counted."""
        self._count(-1)
        yield  # no `finally`: a start that ends while it waits must stay uncounted
        self._count(+1)

    def _count(self, change: int) -> None:
        self.note["starts"] += change
        with suppress(OSError):  # best effort: on a full disk the work itself will raise
            _write(self.folder, self.note)


def _write(folder: Path, note: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / JOB, json.dumps(note).encode())
