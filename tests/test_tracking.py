"""W&B equals ledger and store, however often a cell was interrupted, and losing W&B loses no results."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lottery.commands.wandb.cells import found
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.running import cell as study
from lottery.running import sending, view, wandb_runs
from lottery.running.launch import run_cell
from lottery.running.progress import Progress
from lottery.running.sending import Unreachable, opened
from lottery.running.tracking import Tracker
from lottery.running.wandb_runs import Place, Told, run_id
from lottery.store.folder import BEAT, NAME
from lottery.store.ledger import Ledger, Line
from tests.conftest import TINY
from tests.few import few

OFFLINE = (*TINY, "tracking.mode=offline", "hardware.checkpoint_seconds=1e-6")
"""a cell with a checkpoint after each chunk, so that nothing is measured twice"""
CELL = "imp", 3


@pytest.fixture(autouse=True, scope="module")
def _no_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B without an account and with its own files out of the way."""
    own = tmp_path_factory.mktemp("wandb-own")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(own))
        patch.setenv("NETRC", str(own / "netrc"))
        patch.setenv("WANDB_SILENT", "true")
        yield


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """Leaves nothing of W&B's state in this process to the next test."""
    yield
    wandb.teardown()


def tiny(out: Path, *overrides: str) -> CellConfig:
    return cell_configs([*OFFLINE, f"out={out}", *overrides])[0]


def lines(job: CellConfig) -> list[dict[str, Any]]:
    return Ledger(job.folder / NAME).lines()


def segments(job: CellConfig) -> list[Path]:
    """The folders of a cell's offline run, one for each start that had something to show."""
    return sorted((job.folder / "wandb").glob("offline-run-*"))


def records(segment: Path, *flags: str) -> list[dict[str, Any]]:
    """What a run's file holds, by W&B's own reader, which takes seconds to start: once for each state of the file."""
    wandb.teardown()  # `finish` comes back before the file is complete
    return _read(segment, tuple((path, path.stat().st_size) for path in sorted(segment.glob("*.wandb"))), *flags)


@cache
def _read(segment: Path, files: tuple[tuple[Path, int], ...], *flags: str) -> list[dict[str, Any]]:
    assert files, segment
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *flags, "--json", str(segment)]
    read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return [json.loads(read)] if flags else [json.loads(line) for line in read.splitlines()]


def history(job: CellConfig) -> list[dict[str, float]]:
    """The rows of all segments of a cell's run, without W&B's own columns."""
    items = [r["history"]["item"] for s in segments(job) for r in records(s) if r["type"] == "history"]
    rows = [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
    return [row for row in rows if "rounds._type" not in row]  # a table


def runs(job: CellConfig) -> list[dict[str, Any]]:
    """What each segment says of the run that it belongs to."""
    return [record["run"] for s in segments(job) for record in records(s) if record["type"] == "run"]


def expected(job: CellConfig) -> list[dict[str, float]]:
    """The rows that a cell must show, from its ledger and the metadata of its phases."""
    rows, before = [], 0
    for line in lines(job):
        phase = json.loads((Path(job.config["store"]) / line["phase"] / "phase.json").read_text())["phase"]
        first = phase["spec"]["steps"][0]
        for row in phase["rows"]:
            values = {f"train/{key}": value for key, value in row.items() if key != "step"}
            assert {"train/train_loss", "train/learning_rate", "train/gradient_norm"} <= values.keys()
            rows.append({**values, "train/step": before + row["step"] - first})
        before += line["train_steps"]
        numbers = {f"round/{key}": value for key, value in line.items() if isinstance(value, int | float)}
        rows.append(numbers | {f"round/density/{name}": value for name, value in line["layer_densities"].items()})
    return rows


def in_order(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return sorted(rows, key=lambda row: (row.get("round/round", -1), row.get("train/step", -1)))


class Stopped(Exception):
    """Stands in for anything that ends a cell early."""


def stop_at(monkeypatch: pytest.MonkeyPatch, event: str, number: int) -> None:
    """Stops the cell at an event's n-th time, before W&B hears of it."""
    real, seen = getattr(Progress, event), []

    def told(self: Progress, *args: Any) -> None:
        seen.append(args)
        if len(seen) == number:
            raise Stopped
        real(self, *args)

    monkeypatch.setattr(Progress, event, told)


def interrupted(job: CellConfig, event: str, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, event, number)
        with pytest.raises(Stopped):
            run_cell(job)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> CellConfig:
    """A cell shown from beginning to end."""
    job = tiny(tmp_path_factory.mktemp("shown"), "seed=3")
    run_cell(job)
    return job


def test_one_run_a_cell_named_grouped_and_configured(shown: CellConfig) -> None:
    (segment,) = segments(shown)
    (run,), read = runs(shown), records(segment)
    assert run["run_id"] == run_id(shown.study, *CELL)
    assert (run["run_group"], run["job_type"], run["display_name"]) == (shown.study, "imp", "imp/seed3")
    assert run["tags"] == ["lenet_300_100", "digits", "imp"]
    assert run["resume"] is True  # without it `wandb sync` would count the steps of a second segment from 0 again
    config = {key: value for key, value in run["config"]["update"].items() if key != "_wandb"}
    assert config == {**shown.config, "study": shown.study, "arm_label": "imp"}
    axes = {m["glob_name"]: m["step_metric"] for r in read if (m := r.get("metric")) and "glob_name" in m}
    assert axes == {"round/*": "round/density", "train/*": "train/step"}


def test_rows_are_those_of_ledger_and_store_in_order(shown: CellConfig) -> None:
    rows = history(shown)
    assert rows == expected(shown)
    assert [row["train/step"] for row in rows if "train/step" in row] == list(range(10, 91, 10))
    rounds = [row for row in rows if "round/round" in row]
    for key in ("density", "test_accuracy", "val_loss", "early_stop_step", "compression_ratio"):
        assert [row[f"round/{key}"] for row in rounds] == [line[key] for line in lines(shown)]


def test_summary_holds_the_last_round(shown: CellConfig) -> None:
    (summary,) = records(segments(shown)[0], "--summary")
    assert (summary["state"], summary["exit_code"]) == ("finished", 0)
    final = {key[6:]: value for key, value in summary["summary"].items() if key.startswith("final/")}
    last = lines(shown)[-1]
    assert final == {key: last[key] for key in final}
    wanted = {
        "density",
        "compression_ratio",
        "test_accuracy",
        "test_loss",
        "early_stop_step",
        "early_stop_test_accuracy",
        "total_flops",
        "total_flops_dense",
    }
    assert final.keys() >= wanted


def test_summary_holds_the_last_round_of_a_chain_that_a_condition_ended(tmp_path: Path) -> None:
    job = tiny(tmp_path, "stop.density=0.9", "schedule.rounds=4")
    run_cell(job)
    last = lines(job)[-1]
    assert (last["round"], "stopped" in last) == (1, True)
    (summary,) = records(segments(job)[0], "--summary")
    final = {key[6:]: value for key, value in summary["summary"].items() if key.startswith("final/")}
    assert final["test_accuracy"] == last["test_accuracy"]
    assert final["density"] == last["density"]
    assert final["stopped"] == last["stopped"]


def test_what_is_no_number_is_not_shown(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    tracker, shown = Tracker(), Run(rows)
    tracker._init = lambda mode: shown
    tracker.open(SimpleNamespace(), tmp_path)
    line = {"round": 0, "rounds": 0, "density": 1.0, "compression_ratio": 1.0, "train_steps": 5, "layer_densities": {}}
    tracker.finished(Line(line, test_r2=None, test_loss=2.0), [{"step": 5, "val_r2": None, "val_loss": 1.0}])
    assert rows[0] == {"train/val_loss": 1.0, "train/step": 5}
    assert rows[1]["round/test_loss"] == 2.0
    assert "round/test_r2" not in rows[1]
    assert shown.summary == {"final/density": 1.0, "final/compression_ratio": 1.0, "final/test_loss": 2.0}


def test_a_long_label_is_shortened_to_a_job_type_of_its_own() -> None:
    assert wandb_runs.job_type("imp,rewind=500it") == "imp,rewind=500it"
    assert wandb_runs.job_type("a" * 64) == "a" * 64
    assert wandb_runs.job_type("a" * 65) == f"{'a' * 55}~7db9df37"
    assert wandb_runs.job_type("a" * 66) != wandb_runs.job_type("a" * 65)
    assert len(wandb_runs.job_type("b" * 150)) == 64


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "", "x" * 129])
def test_a_project_that_no_server_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as refused:
        Tracker(project=name)
    assert str(refused.value) == f"project={name}: must be a name of 1 to 128 characters without / \\ # ? % and :"
    Tracker(project="x" * 128)


def test_variables_of_wandb_count_where_nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("MODE", "disabled"), ("PROJECT", "mine"), ("ENTITY", "us")):
        monkeypatch.setenv(f"WANDB_{key}", value)
    by_variables = cell_configs([])[0]
    assert [by_variables.config["tracking"][key] for key in ("mode", "project", "entity")] == ["disabled", "mine", "us"]
    assert cell_configs(["tracking.mode=online"])[0].config["tracking"]["mode"] == "online"
    for key in ("MODE", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{key}")
    plain = cell_configs([])[0]
    assert plain.study == by_variables.study
    assert [plain.config["tracking"][key] for key in ("mode", "project", "entity")] == ["offline", "lottery", None]
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match=r"^mode=shared: must be one of .*disabled; the variable WANDB_MODE says so$"):
        Tracker(mode="shared")


def test_variables_of_wandb_that_do_not_count_are_named() -> None:
    assert wandb_runs.unheeded({"WANDB_MODE": "offline", "WANDB_RUN_ID": ""}) == ""
    said = "not heeded: a cell's W&B run lies in its folder, named and grouped by study and arm"
    assert wandb_runs.unheeded({"WANDB_RUN_GROUP": "g", "WANDB_DIR": "d"}) == f"WANDB_DIR and WANDB_RUN_GROUP {said}"


def test_an_empty_mode_in_the_environment_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.teardown()  # as in a new process
    monkeypatch.setenv("WANDB_MODE", "")
    job = tiny(tmp_path, "schedule.rounds=0")
    run_cell(job)
    assert len(segments(job)) == 1
    assert capsys.readouterr().err == ""


def test_a_key_of_the_wrong_form_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(Unreachable, match=r"^WANDB_API_KEY has the wrong form: .* 40.* 3; nothing was sent$"):
        opened(Told("a-b-c", "imp", 0, {}), tmp_path, Place(), 1)


def test_phases_from_the_store_give_all_rows(shown: CellConfig, tmp_path: Path) -> None:
    job = tiny(tmp_path, "seed=3", f"store={shown.config['store']}")
    run_cell(job)
    assert all(line["run"]["reused"] for line in lines(job))
    assert history(job) == expected(job)


def test_id_is_a_function_of_study_label_and_seed() -> None:
    ids = {run_id(study, label, seed) for study in "ab" for label in ("imp", "imp,rewind=5it") for seed in (0, 1)}
    assert len(ids) == 8
    # pinned: another id would split the runs of everybody's unfinished cells
    assert run_id("demo-digits-0", "imp", 0) == "396f22a70ef870ac"


def test_interrupted_anywhere_every_row_is_shown_once(tmp_path: Path) -> None:
    job = tiny(tmp_path)
    interrupted(job, "advanced", 2)  # after a checkpoint, before W&B heard of its row
    interrupted(job, "finished", 1)  # between ledger and W&B
    interrupted(job, "advanced", 2)  # in the middle of round 1
    interrupted(job, "finished", 2)
    run_cell(job)
    assert len(segments(job)) == 5
    assert {started["run_id"] for started in runs(job)} == {run_id(job.study, "imp", 0)}
    assert in_order(history(job)) == in_order(expected(job))


def test_an_interrupted_run_is_marked_failed(tmp_path: Path) -> None:
    job = tiny(tmp_path, "schedule.rounds=0")
    interrupted(job, "advanced", 2)
    (summary,) = records(segments(job)[0], "--summary")
    assert (summary["state"], summary["exit_code"]) == ("failed", 1)


def test_another_arm_that_finishes_a_phase_shows_all_of_it_and_nothing_of_its_parent(tmp_path: Path) -> None:
    interrupted(tiny(tmp_path, "arm=imp"), "advanced", 3)
    job = tiny(tmp_path, "arm=random_reinit")
    run_cell(job)
    assert in_order(history(job)) == in_order(expected(job))


KILLED = """
import os, signal, sys, time
from lottery.config.compose import cell_configs
from lottery.running.launch import run_cell
from lottery.running.progress import Progress
seen = []
def advanced(self, current, step, row):
    seen.append(step)
    if len(seen) == 6:
        time.sleep(2)  # what was logged is on disk long before
        os.kill(os.getpid(), signal.SIGKILL)
Progress.advanced = advanced
run_cell(cell_configs(sys.argv[1:])[0])
"""


@pytest.mark.slow
def test_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    overrides = [*OFFLINE, f"out={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *overrides], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    job = cell_configs(overrides)[0]
    assert [row["train/step"] for row in history(job) if "train/step" in row] == [10, 20, 30, 40, 50]
    run_cell(job)
    assert in_order(history(job)) == in_order(expected(job))


def test_a_process_that_waited_for_another_shows_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, real = tiny(tmp_path, "schedule.rounds=1"), study.record_cell

    def after_the_other(*args: Any) -> None:
        monkeypatch.setattr(study, "record_cell", real)
        run_cell(job)
        real(*args)

    monkeypatch.setattr(study, "record_cell", after_the_other)
    run_cell(job)
    assert len(segments(job)) == 1
    assert history(job) == expected(job)


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    job = tiny(tmp_path, "tracking.mode=disabled", "schedule.rounds=0")
    run_cell(job)
    assert sorted(path.name for path in job.folder.iterdir()) == ["config.yaml", NAME, BEAT]


def test_a_cell_first_untracked_is_shown_whole(tmp_path: Path) -> None:
    interrupted(tiny(tmp_path, "tracking.mode=disabled"), "advanced", 5)
    job = tiny(tmp_path)
    run_cell(job)
    assert in_order(history(job)) == in_order(expected(job))


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An address where W&B gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "accepts and says nothing":
            listener.listen()
        if request.param != "no account":
            monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        wandb.teardown()
        yield


@pytest.mark.parametrize("server", few(["accepts and says nothing", "refuses", "no account"], 1), indirect=True)
def test_online_without_a_server_goes_on_offline(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_runs, "INIT_SECONDS", 1)
    real, waits = wandb.init, []

    def init(**arguments: Any) -> Any:
        waits.append(arguments["settings"].init_timeout)
        return real(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    job = tiny(tmp_path, "tracking.mode=online", "schedule.rounds=1")
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        run_cell(job)
    said = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert len(said) == 1, said
    assert "kept offline, `lottery wandb sync` sends it later" in said[0]
    assert waits == [1, 1]
    assert [line["round"] for line in lines(job)] == [0, 1]
    assert history(job) == expected(job)
    assert runs(job)[0]["run_id"] == run_id(job.study, "imp", 0)


class Summary(dict[str, float]):
    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def update(self, *args: Any) -> None:
        if self.broken:
            raise OSError("no space left on device")
        super().update(*args)


class Run:
    """A fake run that records its rows and fails on request."""

    def __init__(
        self, rows: list[dict[str, float]], broken: str = "", stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.rows, self.broken, self.summary, self.stop = rows, broken, Summary(broken == "summary"), stop

    def log(self, values: dict[str, Any]) -> None:
        if "rounds" in values:  # a table
            return
        if self.stop():
            raise KeyboardInterrupt
        if self.broken == "log" and len(self.rows) == 2:
            raise wandb.Error("connection lost")
        self.rows.append(values)

    def finish(self, exit_code: int) -> None:
        if self.broken == "finish":
            raise TimeoutError("still uploading")


@pytest.mark.parametrize("broken", ["init", "log", "summary", "finish"])
def test_an_error_of_wandb_never_stops_the_cell(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(self: Tracker, mode: str) -> Run:
        if broken == "init":
            raise wandb.Error("out of order")
        return Run([], broken)

    monkeypatch.setattr(Tracker, "_init", init)
    job = tiny(tmp_path, "schedule.rounds=1")
    run_cell(job)
    assert [line["round"] for line in lines(job)] == [0, 1]
    said = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line]
    assert len(said) == 1, said
    assert said[0].endswith("the ledger has everything")


def test_what_a_broken_run_did_not_take_is_shown_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, float]] = []
    breaking = iter(["log", ""])
    monkeypatch.setattr(Tracker, "_init", lambda self, mode: Run(rows, next(breaking)))
    job = tiny(tmp_path, "schedule.rounds=1")
    interrupted(job, "finished", 2)
    assert len(rows) == 2
    run_cell(job)
    assert in_order(rows) == in_order(expected(job))


def test_a_full_disk_or_a_torn_cursor_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny(tmp_path, "schedule.rounds=0")
    job.folder.mkdir(parents=True)
    (job.folder / "wandb.json").write_text("{")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    names = ("open", "close", "fstat", "O_WRONLY", "O_CREAT")
    monkeypatch.setattr(view, "os", SimpleNamespace(pwrite=full, **{name: getattr(os, name) for name in names}))
    run_cell(job)
    assert len(lines(job)) == 1
    assert (job.folder / "wandb.json").read_text() == "{"
    assert history(job) == expected(job)


def test_a_shorter_note_of_what_was_shown_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.open(SimpleNamespace(), tmp_path)
    tracker.run = Run([])
    for gaps in ([[1, 2]] * 9, []):
        tracker.shown["gaps"] = gaps
        tracker._keep()
    assert json.loads((tmp_path / "wandb.json").read_text()) == tracker.shown


ROUNDS, STEPS = 3, 4  # evaluated at each step, of a phase that begins with step 2


class Stretch:
    """One round of a made-up cell, and its checkpoint."""

    def __init__(self, index: int) -> None:
        self.current = SimpleNamespace(index=index, first=2)
        self.rows = [{"step": 2 + n, "val_loss": float(10 * index + n)} for n in range(1, STEPS + 1)]
        self.line = Line(round=index, rounds=ROUNDS - 1, density=0.8**index, compression_ratio=1.0)
        self.line |= {"train_steps": STEPS, "layer_densities": {}}
        self.done = 0  # steps in the checkpoint


@settings(max_examples=300, deadline=None)
@example([(0, 3, True), (4, 0, False)])  # stopped while showing what somebody else had measured
@given(st.lists(st.tuples(st.integers(0, 24), st.integers(0, STEPS), st.booleans()), max_size=5))
def test_no_row_is_missing_or_repeated_under_any_interruptions(
    tmp_path_factory: pytest.TempPathFactory, stops: list[tuple[int, int, bool]]
) -> None:
    """Each start ends after some events; the next begins earlier, or later if another process went on."""
    folder, rows = tmp_path_factory.mktemp("cell"), list[dict[str, float]]()
    stretches = [Stretch(index) for index in range(ROUNDS)]
    for events, back, overtaken in [*stops, (1000, 0, False)]:
        left, tracker = iter(range(events)), Tracker()

        def stop(left: Iterator[int] = left) -> bool:
            return next(left, None) is None

        tracker._init = lambda mode, stop=stop: Run(rows, stop=stop)
        tracker.open(SimpleNamespace(), folder)
        at = follow(tracker, stretches, stop)
        tracker.close(failed=True)
        if at is not None:
            step = at.done + back if overtaken else at.done - back
            at.done = min(max(step, 0), STEPS)
    steps = [row["train/step"] for row in rows if "train/step" in row]
    assert sorted(steps) == list(range(1, ROUNDS * STEPS + 1))
    assert [row["round/round"] for row in rows if "round/round" in row] == list(range(ROUNDS))
    losses = {row["train/step"]: row["train/val_loss"] for row in rows if "train/step" in row}
    assert losses == {i * STEPS + n: 10 * i + n for i in range(ROUNDS) for n in range(1, STEPS + 1)}


def follow(tracker: Tracker, stretches: list[Stretch], stop: Callable[[], bool]) -> Stretch | None:
    """Sends a cell to a tracker, earlier rounds as from the store, until told to stop; returns the position."""
    for stretch in stretches:
        try:
            for row in stretch.rows[stretch.done :]:
                if stop():
                    return stretch
                stretch.done += 1
                tracker.advanced(stretch.current, int(row["step"]), row)
            if stop():
                return stretch
            tracker.finished(stretch.line, stretch.rows)
        except KeyboardInterrupt:
            return stretch
    return None


def test_what_fails_in_wandb_while_a_run_is_sent_is_of_that_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        starting_step, ended = 3, list[int]()

        def log(self, values: object) -> None:
            raise RuntimeError("a fault of theirs")

        def finish(self, exit_code: int) -> None:
            self.ended.append(exit_code)

    monkeypatch.setattr(sending, "opened", lambda *_: Run())
    told, place = Told("study", "imp", 0, {}), Place("lottery", None)
    with pytest.raises(
        sending.Unsent, match=r"^W&B failed \(.*a fault of theirs.*\); the same command sends the rest$"
    ):
        sending.confirmed(told, place, 1, lambda run, before: run.log(before))
    assert Run.ended == [0]
    assert sending.confirmed(told, place, 1, lambda run, before: None, 1) == (3, 3)
    assert Run.ended == [0, 1, 1]


@pytest.mark.parametrize(("there", "path"), [("imp", "seed0"), ("imp/seed0", "."), (".", "imp"), ("imp/seed0", "..")])
def test_cells_are_found_from_within_their_study(
    there: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tmp_path / "runs" / "study" / "imp" / "seed0"
    cell.mkdir(parents=True)
    (cell / NAME).touch()
    monkeypatch.chdir(cell.parents[1] / there)
    assert [folder.resolve() for folder in found([Path(path)])] == [cell]
    assert [folder.parent.parent.resolve() for folder in found([Path(path)])] == [cell.parents[1]]
