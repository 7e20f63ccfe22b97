"""Shared by all tests: a cell in this process, and the real command in another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lottery.cells import Cell
from lottery.compose import jobs
from lottery.config import build

torch.set_num_threads(1)  # two threads on two cores make these small tensors slower, not faster

collect_ignore = ["then"]  # files of an older version, for test_then.py

TINY = ("data=digits", "budget.steps=30", "budget.evaluate=10", "schedule.rounds=2", "tracking.mode=disabled")
"""overrides of a cell that takes a fraction of a second"""


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """Builds one cell in this process from Hydra overrides, tiny unless they say otherwise."""
    return lambda *overrides: build(jobs([*TINY, *overrides])[0])


@pytest.fixture
def lottery(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real `lottery` command in `tmp_path`, with text output; `env` adds environment variables."""

    def run(*arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lottery", *arguments],
            cwd=tmp_path,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def start(tmp_path: Path):
    """Starts the real command in `tmp_path`, in a process group of its own that is gone after the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **env: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "lottery", *arguments],
                cwd=tmp_path,
                env=environment(**env),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def environment(**more: str) -> dict[str, str]:
    """This environment without what would change a command's behaviour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_", "LOTTERY_"))}
    return {**kept, **more}
