"""Loggers of Lightning's show what the ledger says, however often a cell was interrupted; losing one loses nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.nodes import make
from lottery.foundations.errors import Refused
from lottery.running.launch import run_cell
from tests.conftest import TINY
from tests.test_tracking import expected, in_order, interrupted, lines

CSV = (*TINY[:-1], "tracking=lightning", "hardware.checkpoint_seconds=1e-6")


def shown(job: CellConfig) -> list[dict[str, float]]:
    """The rows that a cell's CSV loggers have written, one file for each start; `step` is left out."""
    rows = []
    for path in sorted(job.folder.glob("csv/*/metrics.csv")):
        with open(path, newline="") as file:
            rows += [{k: float(v) for k, v in row.items() if v != "" and k != "step"} for row in csv.DictReader(file)]
    return rows


def told(job: CellConfig) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in expected(job)]


def test_csv_holds_every_row_of_ledger_and_store_and_the_end(tmp_path: Path) -> None:
    job = cell_configs([*CSV, f"out={tmp_path}"])[0]
    run_cell(job)
    rows, last = shown(job), lines(job)[-1]
    assert [key for row in rows for key in row if key == "round/density"] == ["round/density"] * 3
    final = {k: v for row in rows for k, v in row.items() if k.startswith("final/")}
    assert (final["final/test_accuracy"], final["final/total_flops"]) == (last["test_accuracy"], last["total_flops"])
    by_step = {row["train/step"]: row["train/val_loss"] for row in rows if "train/step" in row}
    assert by_step == {row["train/step"]: row["train/val_loss"] for row in told(job) if "train/step" in row}


def test_interrupted_every_row_is_shown_once(tmp_path: Path) -> None:
    job = cell_configs([*CSV, f"out={tmp_path}"])[0]
    interrupted(job, "advanced", 2)
    interrupted(job, "finished", 2)
    run_cell(job)
    assert len(list(job.folder.glob("csv/*"))) == 3
    steps = [row["train/step"] for row in shown(job) if "train/step" in row]
    assert sorted(steps) == [row["train/step"] for row in in_order(told(job)) if "train/step" in row]


class Full:
    """A logger that fails after some rows."""

    def __init__(self, save_dir: str) -> None:
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, params: dict[str, Any]) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append(metrics)
        if len(self.rows) == 2:
            raise OSError(28, "No space left on device")

    def save(self) -> None: ...

    def finalize(self, status: str) -> None:
        raise AssertionError("it was given up")


def test_losing_a_logger_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_path = ["tracking.logger._target_=tests.test_loggers.Full", "~tracking.logger.name", "~tracking.logger.version"]
    job = cell_configs([*CSV, *by_path, f"out={tmp_path}"])[0]
    run_cell(job)
    assert [line["round"] for line in lines(job)] == [0, 1, 2]
    said = [line for line in capsys.readouterr().err.splitlines() if "ledger has everything" in line]
    assert said == ["Full stopped ([Errno 28] No space left on device); going on without it, the ledger has everything"]


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    job = cell_configs([*CSV, "tracking.mode=disabled", "schedule.rounds=0", f"out={tmp_path}"])[0]
    run_cell(job)
    assert not list(job.folder.glob("csv*"))
    assert not (job.folder / "logger.json").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tracking.mode=on", "tracking.mode=on: must be one of enabled, disabled"),
        ("tracking.logger.name='{cell}'", "in braces can stand folder, study, arm, seed, start"),
        ("+tracking.logger.colour=red", "has no such argument"),
    ],
)
def test_settings_that_no_logger_takes_are_refused_before_training(override: str, said: str, tmp_path: Path) -> None:
    job = cell_configs([*CSV, override, f"out={tmp_path}"])[0]
    with pytest.raises(Refused) as refused:
        make("tracking", job.config["tracking"])
    assert said in str(refused.value)
