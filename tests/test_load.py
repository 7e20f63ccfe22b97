"""Many processes on one store and one folder of runs: each phase is trained once, each round recorded once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tests
from lottery.commands import status
from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest, digest_of
from lottery.foundations.errors import Refused
from lottery.pruning.masks import Masks
from lottery.running import cell as study
from lottery.running.progress import Progress
from lottery.store import leases
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.keeper import FolderKeeper
from lottery.store.ledger import Ledger
from lottery.training.phase import Phase, Trained
from lottery.training.states import State
from tests.conftest import TINY, environment
from tests.test_leases import ELSEWHERE, Clock, clock, leave

__all__ = ["clock"]  # a fixture

MINUTES = 10  # after which what has not ended is taken for a deadlock
SEEDS, AT_ONCE = 100, 50


# in a process of its own: imports take eight seconds, so one process imports, and all that work are forks of it


def crowd(works: list[Callable[[], object]], at_once: int) -> None:
    """Runs each piece of work in a fork of this process, at most so many at a time; exits with 1 if any failed."""
    failed, running = 0, 0
    for work in works:
        if running == at_once:
            failed, running = failed + bool(os.wait()[1]), running - 1
        running += 1
        if not os.fork():
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
    failed += sum(bool(os.wait()[1]) for _ in range(running))
    sys.exit(bool(failed))


def note(path: Path, text: str) -> None:
    """Appends a line; lines of several processes do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def pretend(trained: Path) -> Callable[..., Trained]:
    """Stands in for training: sleeps for a second and leaves a note."""

    def fit(recipe: object, phase: Phase, keeper: FolderKeeper, waypoints: object, watch: Any, **_: object) -> Trained:
        note(trained, keeper.folder.name)
        keeper.reach(phase.first, phase.last)
        watch(phase.first + 1, None)
        time.sleep(1)
        loss = phase.order % 1000 / 1000
        losses = {f"{part}_loss": loss for part in ("train", "val", "test")}
        row = {"step": phase.last, **losses, "val_accuracy": 1 - loss, "test_accuracy": 1 - loss}
        watch(phase.last, row)
        return Trained(phase.state, phase.masks, [row])

    return fit


def sweep(folder: Path) -> None:
    """A study of two arms that share phases; every tenth cell is started twice at once."""
    study.fit = pretend(folder / "trained.txt")
    store, works = Store(folder / "runs" / "store"), []
    arms = [build(cell_configs([*TINY, "schedule.rounds=1", f"arm={arm}"])[0]) for arm in ("imp", "random_mask")]
    for cell in (replace(arm, seed=seed) for seed in range(SEEDS) for arm in arms):
        place = folder / "runs" / cell.study.name / cell.label / f"seed{cell.seed}"
        place.mkdir(parents=True)
        works += [lambda c=cell, p=place: study.record_cell(c, p, store, [Progress(c, p)])] * (
            1 + (len(works) % 10 == 0)
        )
    crowd(works, AT_ONCE)


def one_phase(folder: Path) -> None:
    """Many processes that request the same phase at the same moment."""
    moment = time.monotonic() + 1

    def train(keeper: FolderKeeper) -> Trained:
        note(folder / "trained.txt", keeper.folder.name)
        keeper.reach(0, 10)
        time.sleep(1)
        return Trained({"w": torch.rand(100)}, {}, [{"step": 10}])

    def want() -> None:
        torch.manual_seed(os.getpid())
        time.sleep(max(0.0, moment - time.monotonic()))
        entry = Store(folder / "store").obtain(SPEC, train)
        note(folder / "got.txt", f"{digest(entry.state)} {entry.reused} {entry.executed}")

    crowd([want] * AT_ONCE, AT_ONCE)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts one of the above, in a process group of its own that is gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(what: str) -> subprocess.Popen[bytes]:
        script = f"import sys; from pathlib import Path; from tests.test_load import {what}; {what}(Path(sys.argv[1]))"
        root = str(Path(tests.__file__).parents[1])
        with open(tmp_path / "said.txt", "wb") as said:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", script, str(tmp_path)],
                    cwd=root,
                    env=environment(),
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


SPEC = {"wanted": "by many"}


@pytest.mark.slow
def test_two_hundred_cells_by_fifty_processes_at_a_time(
    script: Callable[[str], subprocess.Popen[bytes]], lottery: Callable[..., Any], tmp_path: Path
) -> None:
    runs, cells, seen = tmp_path / "runs", 2 * SEEDS, Counter[str]()
    began = time.monotonic()
    process = script("sweep")
    while process.poll() is None:  # looking disturbs nobody, and is disturbed by nobody
        assert time.monotonic() < began + 60 * MINUTES, (tmp_path / "said.txt").read_text()
        with suppress(Refused):  # before there is a cell
            seen.update(status.state(status.look(folder), None) for folder in status.find([runs]))
        time.sleep(1)
    assert process.returncode == 0, (tmp_path / "said.txt").read_text()
    assert seen.keys() == {"not started", "running", "finished"}

    trained = (tmp_path / "trained.txt").read_text().split()
    store = Store(runs / "store")
    assert len(trained) == len(set(trained)) == 3 * SEEDS  # a dense phase and a ticket for both arms, and a control
    assert set(store.entries()) == set(trained)
    assert {meta["executed"] for meta in store.entries().values()} == {30}
    ledgers = list(runs.glob(f"*/*/*/{NAME}"))
    assert len(ledgers) == cells
    for path in ledgers:
        assert path.read_bytes().count(b"\n") == 2
        assert [line["round"] for line in Ledger(path).lines()] == [0, 1]
        assert {line["phase"] for line in Ledger(path).lines()} <= set(trained)
        assert sorted(each.name for each in path.parent.iterdir()) == [NAME, "progress.json"]
    assert {each.name for each in (runs / "store").glob("*/*")} == {"phase.json", "result.safetensors"}

    said = lottery("status", "runs")
    assert said.stderr == ""
    assert said.stdout.splitlines()[0] == f"{cells} finished"
    assert len(said.stdout.splitlines()) == status.LINES


@pytest.mark.slow
def test_of_fifty_processes_that_want_a_phase_at_once_one_trains(
    script: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = script("one_phase")
    assert process.wait(60 * MINUTES) == 0, (tmp_path / "said.txt").read_text()
    (key,) = (tmp_path / "trained.txt").read_text().split()
    got = [line.split() for line in (tmp_path / "got.txt").read_text().splitlines()]
    entry = Store(tmp_path / "store").find(key)
    assert entry
    assert {state for state, _, _ in got} == {digest(entry.state)}
    assert Counter(reused for _, reused, _ in got) == {"False": 1, "True": AT_ONCE - 1}
    assert {executed for _, _, executed in got} == {"10"}
    assert sorted(each.name for each in (tmp_path / "store" / key).iterdir()) == ["phase.json", "result.safetensors"]


def test_a_phase_that_is_finished_between_the_look_and_the_lease_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = Store(tmp_path), leases.Watch.take

    def take(watch: leases.Watch) -> leases.Lease | None:  # what of fifty processes hardly ever happens to one
        store.put(SPEC, Trained({"w": torch.ones(2)}, {}, []), executed=7)
        return real(watch)

    monkeypatch.setattr(leases.Watch, "take", take)

    def train(keeper: FolderKeeper) -> Trained:
        raise AssertionError("trained again")

    entry = store.obtain(SPEC, train)
    assert (entry.executed, entry.reused) == (7, True)
    assert sorted(each.name for each in (tmp_path / entry.key).iterdir()) == ["phase.json", "result.safetensors"]


def test_phases_are_trained_once_and_then_reused(tmp_path: Path) -> None:
    store, many = Store(tmp_path), 20
    shapes = {"0.weight": (300, 784), "0.bias": (300,), "1.weight": (100, 300), "1.bias": (100,), "2.weight": (10, 100)}
    state: State = {name: torch.randn(shape) for name, shape in shapes.items()}
    masks: Masks = {name: tensor > 0 for name, tensor in state.items() if tensor.dim() > 1}
    trainings: list[str] = []

    def train(keeper: FolderKeeper) -> Trained:
        keeper.reach(0, 10)
        trainings.append(keeper.folder.name)
        return Trained(state, masks, [{"step": 10}])

    for reused in (False, True):
        entries = [store.obtain({"number": number}, train) for number in range(many)]
        assert {entry.reused for entry in entries} == {reused}
        assert sorted(entry.key for entry in entries) == sorted(trainings)
        assert {entry.executed for entry in entries} == {10}


# another machine, whose clock is an hour off


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_another_machine_s_lease_is_respected_while_it_beats_and_followed_when_it_is_silent(
    off: float, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = Store(tmp_path / "store"), digest_of(SPEC)
    (tmp_path / "store" / key).mkdir(parents=True)
    beats, last = 0, 100  # of which each comes BEAT_SECONDS after the other

    def write() -> None:
        at = time.time() + off + beats
        path = leave(tmp_path / "store" / key, beat=beats, note=3 * beats, at=at, **ELSEWHERE)
        os.utime(path, (at, at))

    def sleep(seconds: float) -> None:
        nonlocal beats
        clock.now += seconds
        assert clock.now < began + last * leases.BEAT_SECONDS + 2 * leases.DEAD_AFTER, "waits for ever"
        if beats < last and clock.now >= began + (beats + 1) * leases.BEAT_SECONDS:
            beats += 1
            write()

    began = clock.now
    write()
    monkeypatch.setattr(clock, "sleep", sleep)

    def train(keeper: FolderKeeper) -> Trained:
        silent = clock.now - (began + last * leases.BEAT_SECONDS)
        assert beats == last
        assert leases.DEAD_AFTER < silent < leases.DEAD_AFTER + leases._MOST_POLL_SECONDS + 1
        assert keeper.lease.number == 2
        keeper.reach(0, 5)
        return Trained({}, {}, [])

    assert store.obtain(SPEC, train).executed == 3 * last + 5


def test_a_result_of_another_machine_is_taken_though_its_lease_still_beats(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = Store(tmp_path / "store"), digest_of(SPEC)
    (tmp_path / "store" / key).mkdir(parents=True)
    path = leave(tmp_path / "store" / key, **ELSEWHERE)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        assert clock.now < 1000 + 3 * leases.DEAD_AFTER, "waits for ever"
        leave(path.parent, beat=round(clock.now), **ELSEWHERE)
        if clock.now > 1000 + 2 * leases.DEAD_AFTER:
            store.put(SPEC, Trained({"w": torch.ones(2)}, {}, []), executed=7)

    monkeypatch.setattr(clock, "sleep", sleep)

    def train(keeper: FolderKeeper) -> Trained:
        raise AssertionError("trained")

    entry = store.obtain(SPEC, train)
    assert (entry.executed, entry.reused) == (7, True)
    assert json.loads(path.read_text())["released"] is False
