"""Tasks: the ranks of a cell when Slurm has started them all, as tasks of one job. They meet through a file."""

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

from lottery import ranks, slurm
from lottery.files import replace

_NAME = "ranks.json"  # [attempt, host, port] of the first task, or nulls where there is nothing (more) to do
_FAREWELL_SECONDS = 60


@contextmanager
def leading(task: slurm.Task, folder: Path) -> Iterator[None]:
    """The first task for a while, together with the others."""
    board = TCPStore(socket.gethostname(), 0, task.count, is_master=True, wait_for_workers=False)
    _say(task, folder, socket.gethostname(), board.port)
    try:
        with ranks.leading(task.count, board):
            yield
    except RuntimeError as error:
        if "onnection" not in str(error):
            raise
        raise ranks.Broken(f"another of the {task.count} tasks of this cell ended; its log says why") from error


def dismiss(task: slurm.Task, folder: Path) -> None:
    """Lets the other tasks end that may still wait for the first."""
    _say(task, folder, None, None)


def follow(task: slurm.Task, folder: Path, serve: Callable[[], None]) -> None:
    """A task other than the first: calls `serve` among the others, if there is anything to do."""
    while (said := _heard(folder))[0] != _attempt(task):
        time.sleep(0.2)
    _, host, port = said
    if not host:
        return
    try:
        board = TCPStore(host, port, task.count, wait_for_workers=False)
        ranks.following(task.rank, task.count, board, serve)
    except Exception:  # its own, or a connection that broke: how the cell ends is for the first task to say
        traceback.print_exc()
        ranks.leave()
        for _ in range(_FAREWELL_SECONDS):
            if _heard(folder) == [_attempt(task), None, None]:
                return
            time.sleep(1)
        raise


def _attempt(task: slurm.Task) -> str:
    """Names this start of the tasks, so that none takes an earlier first one's word."""
    return f"{task.job} {task.restarts} {os.environ.get('SLURM_STEP_ID')}"


def _say(task: slurm.Task, folder: Path, host: str | None, port: int | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / _NAME, json.dumps([_attempt(task), host, port]).encode())


def _heard(folder: Path) -> list[Any]:
    try:
        return list(json.loads((folder / _NAME).read_text()))
    except (OSError, ValueError):
        return [None]
