"""Loggers of Lightning's show what the ledger says, however often a cell was interrupted; losing one loses nothing."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.nodes import make
from lottery.foundations.errors import Refused
from lottery.running import loggers
from lottery.running.launch import run_cell
from tests.conftest import TINY
from tests.strict_logger import Strict
from tests.test_tracking import expected, in_order, interrupted, lines

CSV = (*TINY[:-1], "tracking=lightning", "hardware.checkpoint_seconds=1e-6")
MLFLOW = (*TINY[:-1], "tracking=mlflow", "hardware.checkpoint_seconds=1e-6")


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


def runs_of(kind: str, out: Path) -> list[dict[str, Any]]:
    """The runs that a server has: status, tags, parameters, and by metric the steps and values in order."""
    if kind == "strict":
        return list(json.loads((out / "server.json").read_text()).values())
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found,unused-ignore]  # may be installed

    client, found = MlflowClient(f"sqlite:///{out}/mlflow.db"), []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            of = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
            metrics = {key: [[each.step, each.value] for each in history] for key, history in of.items()}
            about = {"experiment": experiment.name, "name": run.info.run_name, "tags": run.data.tags}
            found.append({**about, "status": run.info.status, "params": run.data.params, "metrics": metrics})
    return found


def asked(kind: str, out: Path, *more: str) -> CellConfig:
    """A cell that is shown in MLflow, or in its stand-in."""
    strict = ["tracking.logger._target_=tests.strict_logger.Strict", f"tracking.logger.tracking_uri={out}/server.json"]
    return cell_configs([*MLFLOW, f"out={out}", *(strict if kind == "strict" else ()), *more])[0]


@pytest.fixture(params=["strict", "mlflow"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which MLflow sets, for processes that it starts
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if request.param == "mlflow":
        for package in ("mlflow", "sqlalchemy"):
            pytest.importorskip(package, reason=f"{package} is not installed")
    return str(request.param)


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflow_goes_on_in_one_run_with_every_row_once(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = asked(kind, tmp_path)
    interrupted(job, "advanced", 2)
    interrupted(asked(kind, tmp_path, "hardware.checkpoint_seconds=1"), "finished", 2)  # it would refuse to change it
    run_cell(job)
    assert "settings of this cell" not in capsys.readouterr().err
    assert len(list((tmp_path / ".loggers").iterdir())) == 1  # the last turn
    (run,) = runs_of(kind, tmp_path)
    assert (run["experiment"], run["name"], run["status"]) == (job.study, "imp/seed0", "FINISHED")
    assert (run["tags"]["arm"], run["tags"]["seed"]) == ("imp", "0")
    assert (run["params"]["hardware.checkpoint_seconds"], run["params"]["study"]) == ("1e-06", job.study)
    wanted: dict[str, list[list[float]]] = {}
    step = 0.0
    for row in told(job):
        step = row.get("train/step", step)
        for key, value in row.items():
            wanted.setdefault(key, []).append([step, value])
    found = {key: sorted(rows) for key, rows in run["metrics"].items() if not key.startswith("final/")}
    assert found == {key: sorted(rows) for key, rows in wanted.items()}
    assert run["metrics"]["final/test_accuracy"] == [[90, lines(job)[-1]["test_accuracy"]]]


def test_a_failed_cell_s_run_has_failed(kind: str, tmp_path: Path) -> None:
    job = asked(kind, tmp_path)
    interrupted(job, "finished", 2)
    assert [run["status"] for run in runs_of(kind, tmp_path)] == ["FAILED"]


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_the_stand_in_refuses_what_mlflow_refuses(tmp_path: Path) -> None:
    for package in ("mlflow", "sqlalchemy"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from pytorch_lightning.loggers import MLFlowLogger

    theirs = MLFlowLogger("an experiment", "a run", f"sqlite:///{tmp_path}/mlflow.db")
    ours = Strict(str(tmp_path / "server.json"), "an experiment", "a run")

    def taken(act: Callable[[Any], object]) -> list[bool]:
        answers = []
        for logger in (theirs, ours):
            try:
                act(logger)
                answers.append(True)
            except Exception:
                answers.append(False)
        return answers

    names = ["dice", "f1@0.5", "a=b", "a,b", "round/density/fc.weight", "a//b", "a/../b", "ü", "n" * 250, "n" * 251, ""]
    verdicts = {name: taken(lambda logger, name=name: logger.log_metrics({name: 1.0}, 3)) for name in names}
    verdicts |= {f"key {name}": taken(lambda logger, name=name: logger.log_hyperparams({name: 1})) for name in names}
    verdicts["same"] = taken(lambda logger: logger.log_hyperparams({"dice": 1}))
    verdicts["changed"] = taken(lambda logger: logger.log_hyperparams({"dice": 2}))
    verdicts["long"] = taken(lambda logger: logger.log_hyperparams({"text": "x" * 9000}))
    assert {what: found for what, found in verdicts.items() if found[0] != found[1]} == {}
    assert [verdicts[what][0] for what in ("f1@0.5", "a//b", "changed", "long")] == [True, False, False, True]


def test_a_refused_setting_does_not_cost_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = asked("strict", tmp_path, "schedule.rounds=0")
    job.config["tracking"]["logger"]["tags"]["a@b"] = 1  # a key that Hydra's command line can't write, but a yaml can
    run_cell(job)
    (run,) = runs_of("strict", tmp_path)
    assert len(run["metrics"]["round/density"]) == 1
    assert "does not take the settings of this cell (Invalid value 'tracking.logger.tags" in capsys.readouterr().err


def test_loggers_are_opened_one_after_the_other(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def opening() -> None:
        with loggers.turn(tmp_path):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=opening) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_turn_is_waited_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "TURN_SECONDS", 0.1)
    with loggers.turn(tmp_path), loggers.turn(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1


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
        ("tracking.logger.name='{cell}'", "in braces can stand folder, study, arm, seed, start, version"),
        ("+tracking.logger.colour=red", "has no such argument"),
    ],
)
def test_settings_that_no_logger_takes_are_refused_before_training(override: str, said: str, tmp_path: Path) -> None:
    job = cell_configs([*CSV, override, f"out={tmp_path}"])[0]
    with pytest.raises(Refused) as refused:
        make("tracking", job.config["tracking"])
    assert said in str(refused.value)
