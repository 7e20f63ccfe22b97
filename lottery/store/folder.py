"""The folder of a cell: the files beside its ledger, and how to find the folders of all cells."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAME = "ledger.jsonl"
CONFIG = "config.yaml"
"""The cell's configuration; this and the files below lie beside the ledger."""
ERROR = "error.txt"
"""Why the cell failed."""
BEAT = "progress.json"
"""The last heartbeat of the process that trains the cell."""
JOB = "slurm.json"
"""The Slurm job that is to train the cell."""

_CELL, _PHASE = re.compile(r"seed\d+"), re.compile(r"[0-9a-f]{64}(\.damaged\.\d+)?")


def folders(top: Path) -> Iterator[Path]:
    """A folder and all folders below it where cells may lie. Links are followed, and each folder is yielded once.

    Phases of a store are skipped, because there may be thousands, and so are W&B's folders in cells and folders that
    another process removes meanwhile. A folder that can't be read raises PermissionError: it may hide cells.
    """
    seen, todo = set[tuple[int, int]](), deque([top])
    while todo:
        folder = todo.popleft()
        try:
            there = folder.stat()
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if (there.st_dev, there.st_ino) in seen:  # reached by a link before, perhaps by one to a folder above itself
            continue
        seen.add((there.st_dev, there.st_ino))
        yield folder
        for entry in inside:
            of_wandb = entry.name == "wandb" and _CELL.fullmatch(folder.name)
            if not _PHASE.fullmatch(entry.name) and not of_wandb:
                # links come last, so that a folder is found by its own path where it has one
                if entry.is_symlink():
                    # of links in a circle entry.is_dir raises an error
                    todo.extend([Path(entry)] if Path(entry).is_dir() else [])
                elif entry.is_dir():
                    todo.appendleft(Path(entry))


def cells(top: Path) -> Iterator[Path]:
    """The folders of all cells in or below a folder, begun or not; cells are not nested."""
    for folder in folders(top):
        *above, name = (top.name, *folder.relative_to(top).parts)
        if _CELL.fullmatch(name) and folder.parent.name != "store" and not any(map(_CELL.fullmatch, above)):
            yield folder


def stores(cell: Path, recorded: str | Path) -> list[Path]:
    """Where a cell's phases may lie: the store that it was recorded with or, if `out` has moved, the one in that."""
    return [Path(recorded), cell.resolve().parents[2] / "store"]


def leave_error(folder: Path, sentence: str, details: str = "") -> None:
    """Writes beside a cell's ledger why it failed. Best effort: a full disk may leave an empty file, or none."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).write_text(f"{sentence}\n\n{details}")


def error_left(folder: Path) -> str:
    """Why a cell failed, in one sentence; empty if nothing says that it did."""
    try:
        return (folder / ERROR).read_text(errors="replace").partition("\n")[0] or f"{ERROR} is empty, as on a full disk"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{ERROR} can't be read: {error.strerror}"
