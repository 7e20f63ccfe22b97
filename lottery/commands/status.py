"""`lottery status`: what became of each cell of a study, told from the files in its folder and from Slurm's queue.

Imports no PyTorch, so that it answers within a second.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused
from lottery.foundations.files import plain
from lottery.foundations.ordering import shown_first
from lottery.running.slurm import attempts
from lottery.running.slurm import queue as slurm
from lottery.store import leases
from lottery.store.folder import BEAT, NAME, cells, error_left
from lottery.store.ledger import Ledger, LedgerError, Line

STATES = ("failed", "running", "stopped", "waiting", "not started", "finished")
"""The states of a cell in the order in which they are shown: first those that may need attention."""
LINES = 40

Queue = Mapping[str, slurm.Queued] | None
"""Slurm's queue by job id; None where Slurm can't be asked."""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("status", help="what became of each cell, here and in Slurm's queue")
    parser.add_argument("runs", nargs="+", type=Path, help="studies' folders, or a folder of studies")
    parser.add_argument("--all", action="store_true", help="show every cell, however many there are")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Prints the table of cells."""
    print(show(args.runs, args.all))
    return 0


@dataclass(frozen=True)
class Facts:
    """What the files in a cell's folder say."""

    study: str
    arm: str
    seed: int
    begun: bool = True
    """Whether the folder holds any file."""
    lines: Sequence[Mapping[str, Any]] = ()
    """The lines of its ledger."""
    complete: bool = False
    error: str = ""
    held: bool = False
    """Whether a process holds the lease; on another machine it may be dead."""
    age: float | None = None
    """Seconds since that process last wrote, by the file system's clock, because the writer's may be wrong."""
    beat: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""


def state(cell: Facts, queue: Queue) -> str:
    """One of STATES."""
    if cell.complete and not cell.error:
        return "finished"
    queued = (queue or {}).get(cell.job)
    if queued and queued.state not in (*slurm.RUNNING, "COMPLETING"):
        return "waiting"  # also a cell that has failed: it was submitted again
    if cell.error:
        return "failed"
    if queued or (cell.held and (cell.age is None or cell.age < leases.DEAD_AFTER)):
        return "running"
    return "stopped" if cell.begun else "not started"


def row(cell: Facts, queue: Queue) -> list[str]:
    """A cell's row of the table."""
    now, queued, beat = state(cell, queue), (queue or {}).get(cell.job, slurm.Queued("", "", "")), cell.beat
    last = cell.lines[-1] if cell.lines else beat
    rounds = last.get("rounds")
    host = "" if now == "waiting" else queued.node or beat.get("host")
    job = cell.job if queued.state else beat.get("job")
    left = beat.get("seconds_left") if now in ("running", "stopped", "waiting") else None
    left = left if isinstance(left, int | float) and math.isfinite(left) else None
    what = {
        "failed": cell.error,
        "running": f"round {beat.get('round')}, step {beat.get('step')} of {beat.get('last')}"
        if beat
        else "starts or waits",
        "stopped": f"{f'job {cell.job} ended; ' if cell.job and queue is not None else ''}the same command goes on",
        "waiting": queued.state if queued.reason in ("", "None") else queued.reason,
        "finished": f"ended early: {last['stopped']}" if "stopped" in last else "",
    }
    return [
        cell.study,
        f"{cell.arm} seed {cell.seed}",
        now,
        f"{len(cell.lines)}/{rounds + 1}" if isinstance(rounds, int) else "",  # the dense round counts
        ", ".join(filter(None, (host, job and f"job {job}"))),
        f"{span(cell.age)} ago" if cell.age is not None else "",
        span(left) if left is not None else "",
        what.get(now, ""),
    ]


def report(cells: Sequence[Facts], queue: Queue, note: str = "", most: int | None = LINES) -> list[str]:
    """How many cells are in each state, then a table of cells, in at most `most` lines; None is no limit."""
    order = sorted(
        cells, key=lambda cell: (STATES.index(state(cell, queue)), cell.study, shown_first(cell.arm), cell.seed)
    )
    counts = Counter(state(cell, queue) for cell in cells)
    lines = [*(f"{counts[each]} {each}" for each in STATES if counts[each]), *filter(None, [note]), ""]
    room = len(cells) if most is None else most - len(lines) - 1
    shown = order if len(order) <= room else order[: room - 1]
    rows = [["study", "cell", "state", "rounds", "where", "heartbeat", "left", "what"]]
    rows += [[text or "-" for text in row(cell, queue)] for cell in shown]
    if len({cell.study for cell in cells}) == 1:
        rows = [texts[1:] for texts in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(map(str.ljust, texts, widths)).rstrip() for texts in rows]
    hidden = len(cells) - len(shown)
    return [*lines, f"{hidden} more cells are not shown; --all shows them"] if hidden else lines


def span(seconds: float) -> str:
    """A length of time, rounded; clocks may disagree, so a negative one is shown as 0.

    >>> [span(seconds) for seconds in (-3, 12.3, 90, 5400, 90_000, 200_000)]
    ['0 s', '12 s', '90 s', '90 min', '25 h', '2 d']
    """
    units = (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800), ("d", 86_400, float("inf")))
    unit, size = next((unit, size) for unit, size, most in units if seconds < most)
    return f"{max(0, round(seconds / size))} {unit}"


def show(paths: Iterable[Path], everything: bool = False) -> str:
    """The status of every cell in or below some folders. Raises Refused if there is none."""
    cells = [look(folder) for folder in find(list(paths))]
    return "\n".join(report(cells, *queue_of(cells), None if everything else LINES))


def queue_of(cells: Iterable[Facts]) -> tuple[Queue, str]:
    """Slurm's queue, if any of the cells may be in it, and a sentence where it can't be asked."""
    if any(cell.job and (cell.error or not cell.complete) for cell in cells):
        try:
            return slurm.queue(), ""
        except slurm.Unavailable as reason:
            what = "only heartbeats tell what runs, and what waits in its queue is shown as stopped"
            return None, f"{reason}; {what}"
    return None, ""


def find(paths: Sequence[Path]) -> list[Path]:
    """The folders of all cells in or below some folders."""
    if missing := [path for path in paths if not path.exists()]:
        raise Refused(f"{missing[0]}: no such folder")
    found = [folder for path in paths for folder in cells(path.absolute())]
    if once := {folder.resolve(): folder for folder in reversed(found)}:  # the first of several paths
        return sorted(once.values())
    raise Refused(f"no cell under {', '.join(map(str, paths))}: cells are folders like STUDY/ARM/seed0")


def look(folder: Path) -> Facts:
    """Reads the facts of one cell; damage is reported as one of them and not raised."""
    lines, complete, error, names = list[Line](), False, "", list[str]()
    with suppress(FileNotFoundError):  # it has just been moved away
        names = os.listdir(folder)
    held = leases.held(folder)  # before the ledger is read: a released lease means all lines are written
    try:
        error = error_left(folder)
        lines = Ledger(folder / NAME).lines()
        others = [name for name in names if name.endswith(".jsonl") and name != NAME]  # of analyses
        complete = bool(lines) and lines[-1].is_last and all(Ledger(folder / name).finished() for name in others)
    except LedgerError as damage:
        error = str(damage)
    except (OSError, KeyError, TypeError) as damage:
        error = f"can't be read: {damage!r}"
    written = []
    for name in names:
        if name == BEAT or name.startswith("lease."):
            with suppress(FileNotFoundError):  # a lease is removed when its work ends
                written.append((folder / name).stat().st_mtime)
    return Facts(
        study=folder.parent.parent.name,
        arm=folder.parent.name,
        seed=int(folder.name[4:]),
        begun=any(name[0] != "." for name in names),  # temporary files have such names
        lines=lines,
        complete=complete,
        error=error,
        held=held,
        age=time.time() - max(written) if written else None,
        beat=plain(folder / BEAT),
        job=str(attempts.read(folder).get("job", "")),
    )
