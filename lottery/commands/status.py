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
from lottery.running.slurm import attempts
from lottery.running.slurm import queue as slurm
from lottery.store import leases
from lottery.store.folder import BEAT, NAME, cells, error_left
from lottery.store.ledger import Ledger, LedgerError, Line

STATES = ("failed", "running", "stopped", "waiting", "not started", "finished")
"""in the order in which they are shown: first what may want a hand"""
LINES = 40

Queue = Mapping[str, slurm.Queued] | None
"""Slurm's; None where it can't be asked"""


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
    """What a cell's folder says."""

    study: str
    arm: str
    seed: int
    begun: bool = True
    """whether the folder holds anything"""
    lines: Sequence[Mapping[str, Any]] = ()
    """the ledger's"""
    complete: bool = False
    error: str = ""
    held: bool = False
    """whether a process holds the folder; one of another machine may be dead"""
    age: float | None = None
    """seconds since that process last wrote, by the file system's clock: the writer's may be an hour off"""
    beat: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""


def state(cell: Facts, queue: Queue) -> str:
    """One of STATES."""
    if cell.complete and not cell.error:
        return "finished"
    queued = (queue or {}).get(cell.job)
    if queued and queued.state not in (*slurm.RUNNING, "COMPLETING"):
        return "waiting"  # what failed once too: it was submitted again
    if cell.error:
        return "failed"
    if queued or (cell.held and (cell.age is None or cell.age < leases.DEAD_AFTER)):
        return "running"
    return "stopped" if cell.begun else "not started"


def row(cell: Facts, queue: Queue) -> list[str]:
    """What the table says of a cell, column by column."""
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
        f"{len(cell.lines)}/{rounds + 1}" if isinstance(rounds, int) else "",  # the dense one among them
        ", ".join(filter(None, (host, job and f"job {job}"))),
        f"{span(cell.age)} ago" if cell.age is not None else "",
        span(left) if left is not None else "",
        what.get(now, ""),
    ]


def report(cells: Sequence[Facts], queue: Queue, note: str = "", most: int | None = LINES) -> list[str]:
    """How many cells are in each state, then a table of them, in `most` lines at most; None: however many it takes."""
    order = sorted(cells, key=lambda cell: (STATES.index(state(cell, queue)), cell.study, cell.arm, cell.seed))
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
    """A length of time, as roughly as it matters; none is negative, whatever a clock says.

    >>> [span(seconds) for seconds in (-3, 12.3, 90, 5400, 90_000, 200_000)]
    ['0 s', '12 s', '90 s', '90 min', '25 h', '2 d']
    """
    units = (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800), ("d", 86_400, float("inf")))
    unit, size = next((unit, size) for unit, size, most in units if seconds < most)
    return f"{max(0, round(seconds / size))} {unit}"


def show(paths: Iterable[Path], everything: bool = False) -> str:
    """The status of every cell in or below some folders. Raises Refused if there is none."""
    cells, note, queue = [look(folder) for folder in find(list(paths))], "", None
    if any(cell.job and (cell.error or not cell.complete) for cell in cells):
        try:
            queue = slurm.queue()
        except slurm.Unavailable as reason:
            note = f"{reason}; only heartbeats tell what runs, and what waits in its queue is shown as stopped"
    return "\n".join(report(cells, queue, note, None if everything else LINES))


def find(paths: Sequence[Path]) -> list[Path]:
    """The folders of all cells in or below some folders."""
    if missing := [path for path in paths if not path.exists()]:
        raise Refused(f"{missing[0]}: no such folder")
    found = [folder for path in paths for folder in cells(path.absolute())]
    if once := {folder.resolve(): folder for folder in reversed(found)}:  # by the first way that leads there
        return sorted(once.values())
    raise Refused(f"no cell under {', '.join(map(str, paths))}: cells are folders like STUDY/ARM/seed0")


def look(folder: Path) -> Facts:
    """The facts of one cell; damage is one of them."""
    lines, complete, error, names = list[Line](), False, "", list[str]()
    with suppress(FileNotFoundError):  # it has just been moved away
        names = os.listdir(folder)
    held = leases.held(folder)  # before the ledger is read: who lets go has written all of it
    try:
        error = error_left(folder)
        lines = Ledger(folder / NAME).lines()
        ledgers = {NAME, *(name for name in names if name.endswith(".jsonl"))}  # an analysis has one too
        complete = all(Ledger(folder / name).finished() for name in ledgers)
    except LedgerError as damage:
        error = str(damage)
    except (OSError, KeyError, TypeError) as damage:
        error = f"can't be read: {damage!r}"
    written = []
    for name in names:
        if name == BEAT or name.startswith("lease."):
            with suppress(FileNotFoundError):  # a lease, if its work has just ended
                written.append((folder / name).stat().st_mtime)
    return Facts(
        study=folder.parent.parent.name,
        arm=folder.parent.name,
        seed=int(folder.name[4:]),
        begun=any(name[0] != "." for name in names),  # what is being written has such a name
        lines=lines,
        complete=complete,
        error=error,
        held=held,
        age=time.time() - max(written) if written else None,
        beat=plain(folder / BEAT),
        job=str(attempts.read(folder).get("job", "")),
    )
