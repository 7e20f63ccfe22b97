"""Segments of a cell's W&B run: what each start of the cell has logged, as W&B's own reader gives it back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Said
from lottery.running.view import chain
from lottery.running.wandb_runs import ROUNDS, Place, table

READ_SECONDS = 300


def segments(folder: Path) -> list[Path]:
    """The folders of a cell's run, one for each start that had something to show, in order of time."""
    found = (path for path in (folder / "wandb").glob("*run-*") if path.is_dir() and not path.is_symlink())
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def unsent(folder: Path, place: Place) -> list[Path]:
    """The segments that are not known to be sent to this place."""
    return [each for each in segments(folder) if not all(place.named in _places(mark) for mark in _marks(each))]


def mark(segment: Path, place: Place) -> None:
    """Notes that a segment was sent, as `wandb sync` does, which then leaves it out, and where to.

    The marks of `wandb sync` itself are empty, so that the server is asked what it has.
    """
    for path in _marks(segment):
        path.write_text("".join(f"{name}\n" for name in dict.fromkeys([*_places(path), place.named])))


@dataclass(frozen=True)
class Logged:
    """What the segments of a run hold."""

    rows: list[dict[str, Any]]
    """All rows in the order in which they were logged, without W&B's own columns."""
    exit_code: int
    """How the last start ended: 1 if it failed or was killed."""

    @property
    def rounds(self) -> set[int]:
        """The rounds that are shown."""
        return {int(row["round/round"]) for row in self.rows if "round/round" in row}

    def after(self, number: int, folder: Path) -> Iterator[dict[str, Any]]:
        """What is to be logged again after the first rows; tables are made anew, from the ledger."""
        for row in self.rows[number:]:
            yield {ROUNDS: table(chain(folder))} if f"{ROUNDS}._type" in row else row


def logged(folder: Path) -> Logged:
    """What all starts of a cell have logged. Raises Said where W&B can't read what it has written.

    An online start first logs again what the server lacked; W&B's own step says from which row on.
    """
    rows, code = list[dict[str, Any]](), 1
    for segment in segments(folder):
        read = _read(segment)
        items = [record["history"]["item"] for record in read if record.get("type") == "history"]
        if items and not segment.name.startswith("offline-"):
            del rows[int(items[0].get("_step", len(rows))) :]
        rows += [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
        code = next((record["exit"].get("exit_code", 0) for record in read if record.get("type") == "exit"), 1)
    return Logged(rows, code)


def _read(segment: Path) -> list[dict[str, Any]]:
    """The records of a segment, up to where a kill has torn it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment.resolve())]
    try:
        read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=READ_SECONDS)
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise Said(f"{segment}: W&B can't read what it has written ({why})") from error
    except subprocess.TimeoutExpired as error:
        raise Said(f"{segment}: W&B did not read it within {READ_SECONDS} s") from error
    return [json.loads(line) for line in read.stdout.splitlines()]


def _places(mark: Path) -> list[str]:
    """The places that a mark names; none if there is no mark."""
    try:
        return mark.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _marks(segment: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.synced") for path in segment.glob("run-*.wandb")]
