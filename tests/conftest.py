"""Shared by all tests: a cell in this process, and the real command in another."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.rounds.study import Cell
from tests.server import Process, Server, environment

__all__ = ["environment"]

torch.set_num_threads(1)  # two threads on two cores make these small tensors slower, not faster

# files of an older version, for test_then.py; projects of others, one of which imports what need not be installed
collect_ignore = ["then", "projects"]

TINY = ("data=digits", "budget.steps=30", "budget.evaluate=10", "schedule.rounds=2", "tracking.mode=disabled")
"""overrides of a cell that takes a fraction of a second"""


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """Builds one cell in this process from Hydra overrides, tiny by default."""
    return lambda *overrides: build(cell_configs([*TINY, *overrides])[0])


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Starts commands as forks, which saves eight seconds of imports each."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts the command in `tmp_path` with stderr merged into stdout; its process group is killed after the test."""
    running: list[Process] = []

    def begin(*arguments: str, merged: bool = True, **env: str) -> Process:
        running.append(server.begin(tmp_path, *arguments, merged=merged, **env))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


@pytest.fixture
def lottery(start: Callable[..., Process]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in `tmp_path`, with text output; `env` adds environment variables."""

    def run(*arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments, merged=False, **env)
        out, err = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)

    return run


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system in memory, or changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "remount" not in options:
            pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
        assert not done.returncode, done.stderr
        return folder

    yield mounted
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)
