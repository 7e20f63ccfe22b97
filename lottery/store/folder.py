"""The folder of a cell: what lies beside its ledger, and where cells lie."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAME = "ledger.jsonl"
CONFIG = "config.yaml"
"""beside the ledger: the cell as it was configured"""
ERROR = "error.txt"
"""beside the ledger of a cell that failed: why"""
BEAT = "progress.json"
"""beside the ledger: the last heartbeat of the process that trains the cell"""
JOB = "slurm.json"
"""beside the ledger: the job of Slurm's that is to train the cell"""

_CELL, _PHASE = re.compile(r"seed\d+"), re.compile(r"[0-9a-f]{64}(\.damaged\.\d+)?")


def folders(top: Path) -> Iterator[Path]:
    """A folder and all folders in it, wherever cells may lie; links are followed, and each folder comes once.

    Left out are the phases of a store, of which there may be thousands, what W&B keeps in a cell, and what another
    process removes meanwhile. Raises PermissionError, because a cell that can't be seen is not one that is not there.
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
        if (there.st_dev, there.st_ino) in seen:  # through a link, perhaps one to a folder above it
            continue
        seen.add((there.st_dev, there.st_ino))
        yield folder
        for entry in inside:
            of_wandb = entry.name == "wandb" and _CELL.fullmatch(folder.name)
            if not _PHASE.fullmatch(entry.name) and not of_wandb and Path(entry).is_dir():
                # links later, so that a folder goes by its own path wherever it has one
                (todo.append if entry.is_symlink() else todo.appendleft)(Path(entry))


def cells(top: Path) -> Iterator[Path]:
    """The folders of all cells in or below a folder, begun or not; within a cell there is no other."""
    for folder in folders(top):
        *above, name = (top.name, *folder.relative_to(top).parts)
        if _CELL.fullmatch(name) and folder.parent.name != "store" and not any(map(_CELL.fullmatch, above)):
            yield folder


def leave_error(folder: Path, sentence: str, details: str = "") -> None:
    """Says beside a cell's ledger why it failed; on a full or read-only disk nothing, or the file's name alone."""
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
