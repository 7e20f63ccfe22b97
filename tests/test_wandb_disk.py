"""The disk of W&B's files fills while a cell runs: the ledger has everything, W&B as much as there was room for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lottery.config.cell_config import CellConfig
from lottery.foundations.errors import Said as Refusal
from lottery.running.backfill import backfill
from lottery.running.launch import run_cell
from lottery.running.progress import Progress
from lottery.running.wandb_runs import LEAST_FREE, Place, full
from tests.test_cli import Said, command
from tests.test_tracking import _afresh, _no_account, history, lines, segments, tiny
from tests.test_wandb_server import arrived, sync
from tests.test_wandb_server import server as standin
from tests.wandb_standin import Standin

__all__ = ["_afresh", "_no_account", "command", "standin"]

MANY = ("budget.evaluate=1it", "schedule.rounds=3")


def elsewhere(job: CellConfig, disk: Path) -> Path:
    """Puts a cell's W&B files on another disk; returns where it looks for them."""
    job.folder.mkdir(parents=True)
    (place := job.folder / "wandb").symlink_to(disk)
    return place


def lost(place: Path) -> str:
    return (
        f"{place}: No space left on device, so that W&B lacks what follows; the ledger has everything, "
        "and once there is room, `lottery wandb backfill` makes what is missing"
    )


@pytest.mark.slow
def test_a_disk_that_wandb_fills_ends_wandb_in_one_sentence_and_nothing_else(
    lottery: Callable[..., subprocess.CompletedProcess[str]], mount: Callable[..., Path], tmp_path: Path
) -> None:
    job = tiny(tmp_path / "runs", *MANY)
    place = elsewhere(job, mount(f"size={LEAST_FREE + 60_000}"))
    done = lottery("run", *job.command, timeout=120)
    assert (done.returncode, done.stderr) == (0, f"{lost(place)}\n")
    assert "Traceback" not in done.stdout
    assert [line["round"] for line in lines(job)] == [0, 1, 2, 3]
    shown = [row["round/round"] for row in history(job) if "round/round" in row]
    assert shown == [0, 1, 2][: len(shown)]
    assert shown


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_what_was_lost_to_a_full_disk_arrives_once_there_is_room(
    mode: str,
    standin: Standin,
    mount: Callable[..., Path],
    tmp_path: Path,
    command: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, real, seen = tiny(tmp_path / "runs", f"tracking.mode={mode}"), Progress.advanced, []
    place = elsewhere(job, disk := mount("size=1m"))

    def fill(self: Progress, *args: Any) -> None:
        seen.append(args)
        if len(seen) == 5:
            with suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:  # until there is no room
                while file.write(bytes(4096)):
                    pass
        real(self, *args)

    monkeypatch.setattr(Progress, "advanced", fill)
    run_cell(job)
    assert [line for line in capsys.readouterr().err.splitlines() if "W&B" in line] == [lost(place)]
    assert [line["round"] for line in lines(job)] == [0, 1, 2]
    made = command("wandb", "backfill", tmp_path / "runs")
    assert (made.code, made.out) == (1, f"{job.folder}: {lost(place)}\n")

    (disk / "filler").unlink()
    assert command("wandb", "backfill", tmp_path / "runs").code == 0
    assert sync(command, job).code == 0
    arrived(standin, job)


def test_a_disk_that_is_full_before_the_start_is_said_and_wandb_not_tried(
    mount: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tiny(tmp_path / "runs", "schedule.rounds=0")
    place = elsewhere(job, mount(f"size={LEAST_FREE - 4096}"))
    run_cell(job)
    assert [line for line in capsys.readouterr().err.splitlines() if "W&B" in line] == [lost(place)]
    assert len(lines(job)) == 1
    assert segments(job) == []
    with pytest.raises(Refusal, match="No space left on device"):
        backfill(job, job.folder, Path(job.config["store"]), Place())


def test_a_disk_with_room_is_not_full_and_one_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert full(tmp_path) == full(tmp_path / "missing") == ""
