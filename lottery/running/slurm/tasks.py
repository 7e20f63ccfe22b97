"""Tasks: the ranks of a cell as tasks of one Slurm job. The first writes its address to a file for the others."""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from lottery.foundations.files import write_whole
from lottery.foundations.job import Task
from lottery.training import ranks

_FAREWELL_SECONDS = 60


@contextmanager
def leading(task: Task, folder: Path) -> Iterator[None]:
    """A context in which the first task trains together with the others."""
    board = TCPStore(socket.gethostname(), 0, task.count, is_master=True, wait_for_workers=False)
    _say(task, folder, socket.gethostname(), board.port)
    try:
        with ranks.leading(task.count, board):
            yield
    except RuntimeError as error:
        if "onnection" not in str(error):
            raise
        raise ranks.Broken(f"another of the {task.count} tasks of this cell ended; its log says why") from error


def dismiss(task: Task, folder: Path) -> None:
    """Ends the other tasks, which may still wait for the first."""
    if task.count > 1:
        _say(task, folder, None, None)


def follow(task: Task, folder: Path, serve: Callable[[], None]) -> None:
    """Waits for the first task and then, if there is something to train, calls `serve` as another rank."""
    path = _path(task, folder)
    while (said := _heard(path)) is None:
        time.sleep(0.2)
    host, port = said
    if not host:
        return
    try:
        board = TCPStore(host, port, task.count, wait_for_workers=False)
        ranks.following(task.rank, task.count, board, serve)
    except Exception:  # an own error or a lost connection; the first task decides how the cell ends
        traceback.print_exc()
        ranks.leave()
        for _ in range(_FAREWELL_SECONDS):
            if _heard(path) == [None, None]:
                return
            time.sleep(1)
        raise


def _path(task: Task, folder: Path) -> Path:
    """The file by which the tasks of one start meet; an earlier start, which may still run, has another."""
    return folder / f"ranks-{task.job}-{task.restarts}-{os.environ.get('SLURM_STEP_ID')}.json"


def _say(task: Task, folder: Path, host: str | None, port: int | None) -> None:
    """Writes the address of the first task, or nulls if there is nothing (more) to do."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(task, folder)
    for old in folder.glob(f"ranks-{task.job}-*.json"):
        if old != path and int(old.stem.split("-")[2]) < task.restarts:
            old.unlink(missing_ok=True)
    write_whole(path, json.dumps([host, port]).encode())


def _heard(path: Path) -> list[Any] | None:
    try:
        return list(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
