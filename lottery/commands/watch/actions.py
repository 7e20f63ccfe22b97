"""`lottery watch`: rounds, accuracy against density and time left of running studies, as they come."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lottery.commands.status import Facts, Queue, find, look, queue_of, state
from lottery.commands.watch.frame import ALIVE, frame
from lottery.store.folder import NAME

EVERY, ASKED, QUIET = 2.0, 30.0, 10.0
"""Seconds between two looks, between two questions to Slurm, and without a running cell until the view ends: between
two cells of a sweep none runs for a moment."""
WIDTH, HEIGHT = 80, 40
"""Of a frame that goes to a file or a pipe."""

Seen = tuple[Sequence[Facts], Queue, str]


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("watch", help="a live view of running studies: rounds, curve, time left")
    parser.add_argument("runs", nargs="+", type=Path, help="studies' folders, or a folder of studies")
    parser.add_argument("--once", action="store_true", help="print one frame and end")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Shows the studies until nothing runs or waits any more; 1 if a cell has then failed or stopped, 130 on Ctrl-C."""
    looks = Looks(args.runs)
    if args.once:
        cells, queue, note = looks.next()
        width = shutil.get_terminal_size((WIDTH, HEIGHT)).columns if sys.stdout.isatty() else WIDTH
        print("\n".join(frame(cells, queue, note, width, HEIGHT)))
        return 0  # as `lottery status`
    try:
        cells, queue, _ = _live(looks) if sys.stdout.isatty() else _lines(looks)
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # SIGTERM
            raise
        print("no longer watched; what runs goes on", file=sys.stderr)
        return 130
    return int(any(state(cell, queue) in ("failed", "stopped") for cell in cells))


class Looks:
    """Looks at all cells below some folders; a cell that has finished is not read again until its folder changes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.finished = dict[Path, tuple[tuple[int, int], Facts]]()
        self.queue: tuple[Queue, str] = (None, "")
        self.asked = -ASKED

    def next(self) -> Seen:
        """What is there now. Raises Refused if there is no cell."""
        cells = [self._look(folder) for folder in find(self.paths)]
        if time.monotonic() - self.asked >= ASKED:
            self.queue, self.asked = queue_of(cells), time.monotonic()
        return cells, *self.queue

    def until_quiet(self) -> Iterator[Seen]:
        """A look every few seconds, longer apart where a look takes long; ends when nothing will come any more."""
        heard: float | None = None
        while True:
            started = time.monotonic()
            seen = self.next()
            if any(state(cell, seen[1]) in ALIVE for cell in seen[0]):
                heard = time.monotonic()
            yield seen
            if heard is None or time.monotonic() - heard > QUIET:
                if self.asked >= started:
                    return
                self.asked = -ASKED  # a job may have been submitted since Slurm was asked
            time.sleep(max(EVERY, 3 * (time.monotonic() - started)))

    def _look(self, folder: Path) -> Facts:
        try:
            # a folder changes with each file that comes or goes: an error, a lease
            changed = (folder.stat().st_mtime_ns, (folder / NAME).stat().st_mtime_ns)
        except OSError:
            return look(folder)
        known = self.finished.get(folder)
        if known and known[0] == changed:
            return known[1]
        facts = look(folder)
        if facts.complete and not facts.error and not facts.held:
            self.finished[folder] = (changed, replace(facts, beat={}))
        return facts


def _live(looks: Looks) -> Seen:
    """Draws frames over each other, as high and wide as the terminal is at that moment."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for cells, queue, note in looks.until_quiet():
            lines = frame(cells, queue, note, console.width, console.height - 1)
            live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
    return cells, queue, note


def _lines(looks: Looks) -> Seen:
    """Prints a frame whenever a round has ended or a cell has another state."""
    before = None
    for cells, queue, note in looks.until_quiet():
        now = [(cell.study, cell.arm, cell.seed, state(cell, queue), len(cell.lines)) for cell in cells]
        if now != before:
            print("\n".join([*frame(cells, queue, note, WIDTH, HEIGHT), ""]), flush=True)
        before = now
    return cells, queue, note
