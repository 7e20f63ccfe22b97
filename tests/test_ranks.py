"""Two real processes train a cell together: the same masks, one ledger, one process's result, through a kill too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lottery as package
from lottery.foundations.machine import processor
from lottery.store import leases
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.training.hardware import Hardware, worker_gpu
from tests import tiny_sets

TWO = ("hardware=ddp", "hardware.accelerator=cpu", "tracking.mode=disabled")
LENET = ("data=digits", "schedule.rounds=2", "schedule.keep=0.3", "budget.steps=60", "budget.evaluate=30")


def cell(folder: Path) -> Path:
    [found] = folder.glob("*/imp*/seed0")
    return found


def states(folder: Path, rounds: int) -> list[dict[str, torch.Tensor]]:
    return [package.load(cell(folder), round=index)[0].state_dict() for index in range(rounds)]


def assert_close(one: Path, other: Path, rounds: int) -> None:
    for ours, theirs in zip(states(one, rounds), states(other, rounds), strict=True):
        for name, tensor in ours.items():
            assert torch.allclose(tensor.float(), theirs[name].float(), atol=1e-5), name
            assert torch.equal(tensor != 0, theirs[name] != 0), name


@pytest.mark.slow
def test_lenet_is_that_of_one_process(lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    # the last round is sparse enough to train on kept values alone
    for out, more in (("one", TWO[1:]), ("two", TWO)):
        done = lottery("run", *LENET, *more, f"out={out}")
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "one", tmp_path / "two", rounds=3)
    lines, others = (Ledger(cell(tmp_path / out) / NAME).lines() for out in ("two", "one"))
    assert [line["round"] for line in lines] == [0, 1, 2]
    for line, other in zip(lines, others, strict=True):
        assert line["density"] == other["density"]
        assert line["test_loss"] == pytest.approx(other["test_loss"], abs=1e-5)
        assert line["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=2 / 500)
        assert line["phase"] != other["phase"]  # it is another sum of the same numbers


@pytest.mark.slow
def test_conv_with_augmentation_is_that_of_one_process(
    lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    files = tiny_sets.write("cifar10", tmp_path / "set")
    recipe = ("model=conv_2", "data=cifar10", *files, "optimizer=sgd", "optimizer.lr=0.01", "optimizer.clip_norm=1.0")
    small = ("schedule.rounds=1", "budget.steps=4", "budget.evaluate=4")
    for out, more in (("one", TWO[1:]), ("two", TWO)):
        done = lottery("run", *recipe, *small, *more, f"out={out}")
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "one", tmp_path / "two", rounds=2)


def others(main: int) -> list[int]:
    """Processes of its group that train with a main process."""
    listed = subprocess.run(["ps", "-wweo", "pid,pgid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()[1:]]
    return [
        int(pid) for pid, group, stat, args in rows
        if int(group) == main and int(pid) != main and "spawn_main" in args and not stat.startswith("Z")
    ]  # fmt: skip


def wait_for(found: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "with_signal"),
    [("first", signal.SIGKILL), ("second", signal.SIGKILL), ("first", signal.SIGTERM), ("first", signal.SIGINT)],
)
def test_killed_and_resumed_it_is_the_undisturbed_run(
    victim: str,
    with_signal: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    lottery: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    recipe = (*LENET, *TWO, "budget.steps=600", "budget.evaluate=300", "hardware.checkpoint_seconds=0.2")
    assert lottery("run", *recipe, "out=whole").returncode == 0
    process = start("run", *recipe, "out=cut")
    wait_for(lambda: list((tmp_path / "cut/store").glob("*/checkpoint.safetensors")))
    helpers = others(process.pid)
    assert len(helpers) == 1
    os.kill(process.pid if victim == "first" else helpers[0], with_signal)
    output, _ = process.communicate(timeout=60)
    if victim == "second":
        assert process.returncode == 1
        assert "another of the 2 processes of this cell ended, and training with it" in output
    elif with_signal != signal.SIGKILL:
        assert "the same command goes on from the last checkpoint" in output
    wait_for(lambda: not others(process.pid), 10)
    again = lottery("run", *recipe, "out=cut")
    assert again.returncode == 0, again.stderr
    whole, cut = (Ledger(cell(tmp_path / out) / NAME).lines() for out in ("whole", "cut"))
    for one, other in zip(whole, cut, strict=True):
        assert {k: v for k, v in one.items() if k != "run"} == {k: v for k, v in other.items() if k != "run"}
    for one, other in zip(states(tmp_path / "whole", 3), states(tmp_path / "cut", 3), strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_a_phase_that_another_process_took_over_ends_the_cell_for_all_its_processes(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    recipe = (*LENET, *TWO, "budget.steps=60000", "hardware.checkpoint_seconds=0.2")
    process = start("run", *recipe)
    wait_for(lambda: list((tmp_path / "runs/store").glob("*/checkpoint.safetensors")), 180)
    [checkpoint] = (tmp_path / "runs/store").glob("*/checkpoint.safetensors")
    with leases.Lease(checkpoint.parent, 2, inherited=0) as other:  # another machine believed it dead
        assert other.create()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "imp seed 0 FAILED: training with 2 processes broke off: " in output
    assert f"{checkpoint.parent.relative_to(tmp_path)}: another process took this work over\n" in output
    assert "Traceback" not in output
    assert not others(process.pid)


def test_a_process_that_ends_before_it_trains_is_noticed(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("run", *LENET, *TWO)
    wait_for(lambda: others(process.pid))
    os.kill(others(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "another of the 2 processes of this cell ended with code -9 before it could train" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_sweep_s_worker_starts_its_ranks(
    lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    sweep = ("experiment=demo", "arm=imp", "seed=0", "schedule.rounds=1", "budget.steps=20")
    done = lottery("run", *sweep, *TWO, "hardware.devices=2")
    assert done.returncode == 0, done.stderr
    assert len(Ledger(next(tmp_path.glob("runs/*/imp/seed0")) / NAME).lines()) == 2


def test_a_batch_that_can_not_be_shared_is_refused(lottery: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = lottery("run", *LENET, *TWO, "data.batch_size=25")
    assert done.returncode != 0
    assert "data.batch_size=25: must be a multiple of the 2 processes" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_workers_of_a_sweep_share_out_the_gpus() -> None:
    names = [f"LokyProcess-{number}" for number in range(1, 9)]
    assert [worker_gpu(name, 4) for name in names] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^devices=0: must be at least 1"):
        Hardware(devices=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Hardware(devices=2).device == "cuda"
    assert Hardware(devices=2).model == processor()  # no GPU is taken to tell its name
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU of 2026")
    assert Hardware(devices=2).model == "a GPU of 2026"
    assert Hardware(accelerator="cpu").model == processor()
    with pytest.raises(ValueError, match=r"^devices=3: this machine has 2 GPUs"):
        Hardware(devices=3)
