"""A killed cell resumes in the middle and ends with the results of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lottery.foundations.digests import digest
from lottery.store.entries import Store
from lottery.store.folder import NAME
from tests.server import Server


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undisturbed runs of CELL."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server.run(folder, *CELL)[0] == 0
    return folder / "runs"


def until(condition: Callable[[], Any], pid: int = 0) -> bool:
    """Waits for a condition; False if the process ended first."""
    deadline = time.monotonic() + 120
    while not condition():
        if pid and ended(pid):
            return False
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.005)
    return True


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def marked(mark: str) -> list[int]:
    """Living processes, whatever their group, that were started with MARK in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in path.read_bytes().split(b"\0") and not ended(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:  # gone, or another user's
            continue
    return found


def notes(store: Path) -> dict[str, int]:
    """Steps noted as begun, for each phase that is not finished."""
    found = {}
    for folder in store.glob("*"):
        leases = sorted(folder.glob("lease.*"), key=lambda path: int(path.suffix[1:]))
        if not (folder / "phase.json").exists() and leases:
            try:
                found[folder.name] = json.loads(leases[-1].read_text())["note"]
            except (OSError, ValueError):  # being written, or its phase just ended
                continue
    return found


def executed(runs: Path) -> int:
    """Optimizer steps of all finished phases."""
    return sum(meta["executed"] for meta in Store(runs / "store").entries().values())


def begun(runs: Path) -> int:
    """Optimizer steps of all phases, finished or not."""
    metas = (path.read_text() for path in runs.glob("store/*/phase.json"))
    return sum(json.loads(text)["phase"]["executed"] for text in metas) + sum(notes(runs / "store").values())


def ledgers(runs: Path) -> dict[str, list[str]]:
    """Every ledger's lines without `run`, byte for byte."""
    return {
        str(path.relative_to(runs)): [line.rpartition(', "run": {')[0] for line in path.read_text().splitlines()]
        for path in sorted(runs.glob(f"*/*/*/{NAME}"))
    }


def results(runs: Path) -> dict[str, tuple[str, str, list[Any]]]:
    """Digests of weights and masks, and the evaluations, of every phase."""
    store = Store(runs / "store")
    found = {}
    for key in store.entries():
        entry = store.find(key)
        assert entry
        found[key] = digest(entry.state), digest(entry.masks), entry.rows
    return found


def same(runs: Path, undisturbed: Path) -> bool:
    assert ledgers(runs) == ledgers(undisturbed) != {}
    assert results(runs) == results(undisturbed)
    assert not list(runs.glob("store/*/.checkpoint*"))
    return True


CHUNK = 20
CELL = (
    "run",
    "data=digits",
    "schedule.rounds=1",
    "budget.steps=200",
    f"budget.evaluate={CHUNK}",
    "tracking.mode=disabled",
)


def test_a_kill_costs_at_most_the_chunk_that_was_running_when_each_is_saved(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    command = (*CELL, "hardware.checkpoint_seconds=1e-9")
    runs, draw = tmp_path / "killed" / "runs", random.Random(0)

    assert server.run(tmp_path / "killed", *command, dies=3)[0] == -signal.SIGKILL
    assert list(runs.glob("store/*/.checkpoint.safetensors.*"))
    assert 0 < sum(notes(runs / "store").values()) <= 3 * CHUNK  # a training's first chunks are shorter
    for _ in range(2):
        already, more = begun(runs), draw.randrange(2 * CHUNK, 6 * CHUNK)
        pid = server.start(tmp_path / "killed", *command)
        assert until(lambda least=already + more: begun(runs) >= least, pid)
        os.kill(pid, signal.SIGKILL)
        assert server.wait(pid) == -signal.SIGKILL
    assert server.run(tmp_path / "killed", *command)[0] == 0

    assert same(runs, undisturbed)
    assert executed(undisturbed) == 400
    assert 400 < executed(runs) <= 400 + 3 * CHUNK


@pytest.mark.slow
def test_twenty_kills_change_nothing_and_cost_seconds(server: Server, tmp_path: Path) -> None:
    # checkpoints each 0.1 s instead of 10: phases of a few seconds then tell going on from starting anew
    seconds, chunk = 0.1, 50
    command = (
        "run", "data=digits", "schedule.rounds=3", "budget.steps=1500", f"budget.evaluate={chunk}", "arm.rewind=500it",
        "tracking.mode=disabled", f"hardware.checkpoint_seconds={seconds}",
    )  # fmt: skip
    assert server.run(tmp_path / "undisturbed", *command)[0] == 0
    whole = 1500 + 3 * 1000
    assert executed(tmp_path / "undisturbed" / "runs") == whole
    lines = [
        json.loads(line)
        for path in tmp_path.glob(f"undisturbed/runs/*/*/*/{NAME}")
        for line in path.read_text().splitlines()
    ]
    rate = whole / sum(line["run"]["seconds"] for line in lines)

    runs, draw, inside, checkpoints = tmp_path / "killed" / "runs", random.Random(1), 0, 0
    assert server.run(tmp_path / "killed", *command, dies=2)[0] == -signal.SIGKILL
    assert list(runs.glob("store/*/.checkpoint.safetensors.*"))
    for attempt in range(20):
        before, already, more = notes(runs / "store"), begun(runs), draw.randrange(200) if attempt % 7 else 0
        pid = server.start(tmp_path / "killed", *command)
        assert until(lambda least=already + more: begun(runs) >= least, pid)
        time.sleep(draw.uniform(0, 0.05))
        (os.killpg if attempt % 2 else os.kill)(pid, signal.SIGKILL)
        assert server.wait(pid) == -signal.SIGKILL
        inside += any(note > before.get(key, 0) for key, note in notes(runs / "store").items())
        checkpoints += bool(list(runs.glob("store/*/checkpoint.safetensors")))
    assert server.run(tmp_path / "killed", *command)[0] == 0

    assert inside >= 8
    assert checkpoints >= 8
    assert same(runs, tmp_path / "undisturbed" / "runs")
    # a checkpoint waits for its chunk's end, and the chunk that a kill breaks off counts whole
    lost = executed(runs) - whole
    assert chunk <= lost <= 21 * (seconds * rate + 2 * chunk)


REAL = ("run", "data=digits", "schedule.rounds=1", "budget.steps=2500", "budget.evaluate=100")


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_a_killed_command_leaves_no_process_and_goes_on(
    server: Server, start: Any, tmp_path: Path, group: bool
) -> None:
    command = (*REAL, "hardware.checkpoint_seconds=0.2")  # with W&B, whose own process must go too
    process = start(*command, MARK=str(tmp_path))
    assert until(lambda: list(tmp_path.glob("runs/store/*/checkpoint.safetensors")), process.pid)
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert until(lambda: not marked(str(tmp_path)))
    steps = begun(tmp_path / "runs")
    assert steps

    assert server.run(tmp_path, *command)[0] == 0
    assert server.run(tmp_path / "undisturbed", *command)[0] == 0
    assert same(tmp_path / "runs", tmp_path / "undisturbed" / "runs")
    assert 5000 <= executed(tmp_path / "runs") < 5000 + steps


@pytest.mark.slow
def test_a_sweep_survives_the_kill_of_its_main_process_and_of_a_worker(
    server: Server, start: Any, tmp_path: Path
) -> None:
    cells = (*REAL, "tracking.mode=disabled", "hardware.checkpoint_seconds=0.2", "seed=0,1")
    command = (*cells, "hydra/launcher=local", "hydra.launcher.n_jobs=2", "-m")
    store = tmp_path / "runs" / "store"

    process = start(*command, MARK=str(tmp_path))
    assert until(lambda: len(list(store.glob("*/checkpoint.safetensors"))) == 2, process.pid)
    assert len(workers(str(tmp_path))) == 2
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert until(lambda: not marked(str(tmp_path)))
    steps = begun(tmp_path / "runs")

    process = start(*command, MARK=str(tmp_path))
    assert until(lambda: begun(tmp_path / "runs") > steps + 400, process.pid)
    os.kill(workers(str(tmp_path))[0], signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == 1
    assert "2 of 2 cells are unfinished; a worker process was killed, which ends the whole sweep; " in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert until(lambda: not marked(str(tmp_path)))

    process = start(*command, MARK=str(tmp_path))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert server.run(tmp_path / "undisturbed", *cells, "-m")[0] == 0
    assert same(tmp_path / "runs", tmp_path / "undisturbed" / "runs")


def workers(mark: str) -> list[int]:
    return [pid for pid in marked(mark) if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()]
