"""What a W&B server has received, of a stand-in on the loopback that the real client talks to."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from lottery.commands.main import parser
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.running import segments as held
from lottery.running import wandb_runs
from lottery.running.launch import run_cell
from lottery.running.progress import Progress
from lottery.running.wandb_runs import STUDY, run_id
from tests.test_cli import Said, command
from tests.test_tracking import KILLED, OFFLINE, _afresh, _no_account, expected, in_order, interrupted, lines, tiny
from tests.wandb_standin import ENTITY, Standin

__all__ = ["_afresh", "_no_account", "command"]

ONLINE = "tracking.mode=online"
OLD = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that wandb-workspaces calls forth


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """A server that answers, and the environment in which the client finds it."""
    with Standin() as standin:
        for name, value in standin.env().items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        yield standin
        standin.failing, standin.slow = {}, {}
        wandb.teardown()  # while there is still a server to say goodbye to


def of(job: CellConfig) -> str:
    return run_id(job.study, job.label, job.seed)


def rows(server: Standin, job: CellConfig) -> list[dict[str, float]]:
    """The rows that a server has of a cell, tables left out."""
    return [row for row in server.history(of(job)) if "rounds" not in row]


def arrived(server: Standin, job: CellConfig, exitcode: int = 0) -> None:
    """A cell's run is whole, and nothing is there twice."""
    assert in_order(rows(server, job)) == in_order(expected(job))
    steps = server.steps(of(job))
    assert steps == list(range(len(steps)))
    assert (server.runs[of(job)]["complete"], server.runs[of(job)]["exitcode"]) == (True, exitcode)
    assert server.unknown == []


def marks(job: CellConfig) -> list[str]:
    return sorted(path.parent.name for path in job.folder.glob("wandb/*run-*/*.synced"))


def sync(command: Callable[..., Said], job: CellConfig, *flags: object) -> Said:
    wandb.teardown()  # as if it were another process's; `finish` comes back before the file is complete
    return command("wandb", "sync", job.folder.parent.parent, *flags)


def test_an_online_run_is_named_grouped_typed_tagged_and_whole(server: Standin, tmp_path: Path) -> None:
    job = tiny(tmp_path, ONLINE, "seed=3", "stop.density=0.9", "schedule.rounds=4")
    run_cell(job)
    arrived(server, job)
    run, last = server.runs[of(job)], lines(job)[-1]
    assert "stopped" in last
    assert (run["groupName"], run["jobType"], run["displayName"]) == (job.study, "imp", "imp/seed3")
    assert (run["tags"], run["project"]) == (["lenet_300_100", "digits", "imp"], "lottery")
    config, summary = server.config(of(job)), server.summary(of(job))
    assert config["optimizer"] == job.config["optimizer"]
    assert (config["study"], config["arm_label"]) == (job.study, "imp")
    axes = {
        metric["2"]: config["_wandb"]["m"][metric["5"] - 1]["1"] for metric in config["_wandb"]["m"] if "2" in metric
    }
    assert axes == {"round/*": "round/density", "train/*": "train/step"}
    for key in ("density", "test_accuracy", "total_flops", "total_flops_dense", "stopped", "compression_ratio"):
        assert summary[f"final/{key}"] == last[key]
    [table] = [row["rounds"] for row in server.history(of(job)) if "rounds" in row]
    sent = json.loads(server.uploads[f"{of(job)}/{table['path']}"])
    assert [dict(zip(sent["columns"], row, strict=True))["test_accuracy"] for row in sent["data"]] == [
        line["test_accuracy"] for line in lines(job)
    ]
    assert [artifact["artifactTypeName"] for artifact in server.artifacts.values() if artifact["committed"]] == [
        "run_table"
    ]


@pytest.mark.slow
def test_offline_then_sync_sends_everything_once(server: Standin, tmp_path: Path, command: Callable[..., Said]) -> None:
    job = tiny(tmp_path, "schedule.rounds=1")
    run_cell(job)
    assert (dict(server.runs), marks(job)) == ({}, [])
    said = sync(command, job)
    assert (said.code, said.err) == (0, "")
    assert "9 rows sent" in said.out  # 2 rounds, 2 * 3 evaluations, 1 table
    arrived(server, job)
    assert len(marks(job)) == 1
    study = server.runs[run_id(job.study, STUDY, 0)]
    assert (study["groupName"], study["jobType"], study["displayName"]) == (job.study, "report", job.study)
    [shown] = server.history(run_id(job.study, STUDY, 0))
    picture = server.uploads[f"{study['name']}/{shown['figures/curve']['path']}"]
    assert picture.startswith(b"\x89PNG")
    assert shown["means"]["nrows"] == 2
    before, views = server.asked.copy(), len(server.history(of(job)))
    again = sync(command, job)
    assert (again.code, again.out) == (0, "nothing to send: the server has all of it\n")
    assert (server.asked, len(server.history(of(job)))) == (before, views)


@pytest.mark.slow
def test_what_matches_dense_is_said_of_each_cell_and_of_the_study(
    server: Standin, tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lottery.commands.wandb import sync as syncing

    monkeypatch.setattr(syncing, "sparsest_match", lambda frame, arm: (0.8, 1, 1))
    job = tiny(tmp_path, "schedule.rounds=1")
    run_cell(job)
    assert sync(command, job).code == 0
    assert server.summary(of(job))["final/matching_density"] == 0.8
    assert server.summary(run_id(job.study, STUDY, 0))["final/matching_density/imp"] == 0.8


@pytest.mark.slow
def test_several_starts_become_one_run(server: Standin, tmp_path: Path, command: Callable[..., Said]) -> None:
    job = tiny(tmp_path, "schedule.rounds=1")
    interrupted(job, "advanced", 2)
    said = sync(command, job)
    assert (said.code, server.runs[of(job)]["exitcode"], len(marks(job))) == (0, 1, 1), said
    run_cell(job)
    assert sync(command, job).code == 0
    arrived(server, job)
    assert len(marks(job)) == 2


@pytest.mark.slow
def test_a_cell_that_was_not_tracked_gets_its_run_from_the_ledger(
    server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    job = tiny(tmp_path, "tracking.mode=disabled", "schedule.rounds=1")
    run_cell(job)
    said = sync(command, job)
    assert said.code == 1
    assert said.err.endswith(
        "there is no W&B run to send; `lottery wandb backfill` makes those of cells that were not tracked\n"
    )
    made = command("wandb", "backfill", tmp_path)
    assert (made.code, made.out.splitlines()[-1]) == (0, "1 runs, offline; `lottery wandb sync` sends them")
    assert dict(server.runs) == {}
    assert sync(command, job).code == 0
    arrived(server, job)
    assert command("wandb", "backfill", tmp_path).out == "nothing to make: every round of these ledgers is in a run\n"


@pytest.mark.slow
def test_what_a_full_disk_did_not_keep_is_made_from_the_ledger(
    server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    """W&B says nothing where the disk is full: the rest of its file is not there."""
    job = tiny(tmp_path, "schedule.rounds=2")
    run_cell(job)
    wandb.teardown()
    [file] = job.folder.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    said = sync(command, job)
    assert "of 3 rounds; `lottery wandb backfill` makes them from the ledger" in said.out
    assert command("wandb", "backfill", tmp_path).code == 0
    assert sync(command, job).code == 0
    arrived(server, job)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of a client given up
@pytest.mark.parametrize(("event", "number"), [("advanced", 2), ("finished", 2)])
def test_a_server_that_goes_down_loses_nothing(
    event: str,
    number: int,
    server: Standin,
    tmp_path: Path,
    command: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of a round, and at the end."""
    monkeypatch.setattr(wandb_runs, "FINISH_SECONDS", 2)
    job, real, seen = tiny(tmp_path, ONLINE, "schedule.rounds=1"), getattr(Progress, event), []

    def told(self: Progress, *args: Any) -> None:
        seen.append(args)
        if len(seen) == number:
            server.stop()
        real(self, *args)

    monkeypatch.setattr(Progress, event, told)
    run_cell(job)
    assert [line["round"] for line in lines(job)] == [0, 1]
    wandb.teardown()
    server.start()
    assert sync(command, job).code == 0
    arrived(server, job)


@pytest.mark.slow
@pytest.mark.parametrize("codes", [[429], [500, 500]])
def test_a_server_that_is_overloaded_for_a_while_gets_everything_once(
    codes: list[int], server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    job = tiny(tmp_path, "schedule.rounds=0")
    run_cell(job)
    server.failing, server.slow = {"stream": codes}, {"UpsertBucket": 0.5}
    assert sync(command, job).code == 0
    arrived(server, job)


@pytest.mark.slow
@pytest.mark.parametrize("code", [400, 500])
def test_what_a_server_does_not_take_is_not_noted_as_sent(
    code: int, server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    job = tiny(tmp_path, "schedule.rounds=0")
    run_cell(job)
    server.failing = {"stream": [code] * 1000}
    said = sync(command, job, "--timeout", 2)
    assert (said.code, marks(job)) == (1, [])
    assert "not sent" in said.out
    assert "0 of 5 rows have arrived within 2 s; the same command sends the rest" in said.out
    server.failing = {}
    assert sync(command, job).code == 0
    arrived(server, job)


@pytest.mark.slow
def test_a_server_that_is_not_there_and_a_key_that_is_missing_are_said_in_one_sentence(
    server: Standin, tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_runs, "INIT_SECONDS", 1)
    job = tiny(tmp_path, "schedule.rounds=0")
    run_cell(job)
    with server.down():
        said = sync(command, job)
    assert said.code == 1
    assert said.err.startswith("lottery: the W&B server does not answer (")
    assert said.err.count("\n") == 1
    monkeypatch.delenv("WANDB_API_KEY")
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        said = sync(command, job)
    assert said.err == "lottery: no W&B key: set WANDB_API_KEY, or call `wandb login` once; nothing was sent\n"
    assert (said.code, marks(job)) == (1, [])


@pytest.mark.slow
def test_a_ticket_arrives_with_its_lineage(server: Standin, tmp_path: Path, command: Callable[..., Said]) -> None:
    job = tiny(tmp_path, "schedule.rounds=1", "tracking.mode=disabled")
    run_cell(job)
    file = tmp_path / "t.safetensors"
    assert command("ticket", "export", job.folder, "--round", 1, "-o", file).code == 0
    said = command("wandb", "ticket", file)
    assert said.out == f"{file}: artifact {of(job)}_r1 of run {of(job)}\n", said
    [artifact] = server.committed("ticket")
    about, line = json.loads(artifact["metadata"]), lines(job)[1]
    assert [about[key] for key in ("study", "arm", "seed", "round", "phase")] == [job.study, "imp", 0, 1, line["phase"]]
    assert server.uploads[f"{next(iter(server.artifacts))}/t.safetensors"] == file.read_bytes()
    server.failing = {"CommitArtifact": [400] * 100}
    file.write_bytes(file.read_bytes())
    command("ticket", "export", job.folder, "--round", 0, "-o", tmp_path / "other.safetensors")
    said = command("wandb", "ticket", tmp_path / "other.safetensors", "--timeout", 3)
    assert said.code == 1
    assert "has not arrived" in said.err


def test_rows_that_an_online_start_logged_again_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline start counts its steps from 0; an online one from what the server has, here 1 row of 3."""
    starts = {"run-20260101_000000-a": [0, 1], "offline-run-20260101_000001-a": [0], "run-20260101_000002-a": [1, 2, 3]}
    values = {"run-20260101_000000-a": [10, 20], "offline-run-20260101_000001-a": [30]}
    values["run-20260101_000002-a"] = [20, 30, 40]
    for name in starts:
        (tmp_path / "wandb" / name).mkdir(parents=True)

    def read(segment: Path) -> list[dict[str, Any]]:
        rows = zip(starts[segment.name], values[segment.name], strict=True)
        return [{"type": "history", "history": {"item": {"_step": step, "train/step": at}}} for step, at in rows]

    monkeypatch.setattr(held, "_read", read)
    assert [row["train/step"] for row in held.logged(tmp_path).rows] == [10, 20, 30, 40]
    assert held.logged(tmp_path).exit_code == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_of_three_processes_that_were_killed_is_one(
    mode: str, server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    overrides = [*OFFLINE, f"tracking.mode={mode}", f"out={tmp_path}"]
    job = cell_configs(overrides)[0]
    for number in (3, 4):
        script = KILLED.replace("== 6", f"== {number}")
        killed = subprocess.run([sys.executable, "-c", script, *overrides], capture_output=True, timeout=300)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_cell(job)
    said = sync(command, job)
    assert said.code == 0, said
    arrived(server, job)


@OLD
def test_the_view_is_as_it_was(tmp_path: Path, command: Callable[..., Said]) -> None:
    from lottery.running.workspace import Overview

    golden = Path(__file__).parent / "wandb_view.json"
    made = nameless(json.loads(Overview("demo-digits-c50a07ad", "test_accuracy", "lottery", ENTITY).specification()))
    assert made == json.loads(golden.read_text())
    curve = made["section"]["panelBankConfig"]["sections"][0]["panels"][0]
    assert curve["viewType"] == "Run History Line Plot"
    config = curve["config"]
    assert (config["xAxis"], config["metrics"]) == ("round/density", ["round/test_accuracy"])
    assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("arm_label.value", "mean", "stddev")


def nameless(value: Any) -> Any:
    """A specification without the names that are drawn at each making."""
    if isinstance(value, dict):
        return {key: nameless(item) for key, item in value.items() if key not in ("__id__", "id", "ref")}
    return [nameless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
@OLD
def test_view_and_report_are_saved_with_the_verdicts(
    server: Standin, tmp_path: Path, command: Callable[..., Said]
) -> None:
    job = tiny(tmp_path, "schedule.rounds=1", "tracking.mode=disabled")
    run_cell(job)
    (tmp_path / "expected.csv").write_text(
        "id,claim,results,quantity,value,bound,where,not_run\n"
        "C1,it learns,mine,test_accuracy: imp@1,0.1,>=,section 1,\n"
    )
    said = command(
        "wandb", "workspace", job.folder.parent.parent, "--verdict", tmp_path / "expected.csv", "mine", "--project", "p"
    )
    assert said.code == 0, said
    view, report = server.views
    assert (view["displayName"], view["projectName"]) == (f"arms compared: {job.study}", "p")
    assert "round/test_accuracy" in view["spec"]
    assert report["displayName"] == job.study
    assert "it learns" in report["spec"]
    assert "Test accuracy" in report["spec"]
    assert server.unknown == []


def test_the_commands_of_the_page_parse() -> None:
    page = (Path(__file__).parent.parent / "docs" / "tracking.md").read_text()
    shown = [shlex.split(line, comments=True)[1:] for line in page.splitlines() if line.startswith("lottery wandb")]
    assert [parser().parse_args(words).action for words in shown] == ["sync", "workspace", "backfill", "ticket"]


def test_without_the_extra_the_view_is_refused_in_one_sentence(
    tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny(tmp_path, "schedule.rounds=0", "tracking.mode=disabled")
    run_cell(job)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.expr", None)
    said = command("wandb", "workspace", tmp_path, "--offline")
    assert said.code == 1
    assert said.err.startswith("lottery: `lottery wandb workspace` needs the extra lottery[wandb]: pip install ")
    assert said.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_what_one_place_has_is_sent_to_another_all_the_same(
    whole: bool, server: Standin, tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny(tmp_path, "schedule.rounds=1")
    if whole:
        run_cell(job)
    else:
        interrupted(job, "advanced", 5)
    nothing = "nothing to send: the server has all of it\n"
    assert sync(command, job).code == 0
    assert sync(command, job).out == nothing
    with Standin() as other:
        monkeypatch.setenv("WANDB_BASE_URL", other.url)
        said = sync(command, job)
        assert (said.code, " rows sent" in said.out) == (0, True)
        assert rows(other, job) == rows(server, job) != []
        assert sync(command, job).out == nothing
        assert " rows sent" in sync(command, job, "--project", "other").out
        assert " rows sent" in sync(command, job, "--entity", "them").out
        assert (run_id(job.study, STUDY, 0) in other.runs) is whole
        wandb.teardown()  # while it still answers
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(command, job).out == nothing


@pytest.mark.slow
@OLD
def test_a_damaged_ledger_ends_no_other_study(
    server: Standin, tmp_path: Path, command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first study has one cell of two damaged, the last is whole."""
    bad, beside, good = (
        tiny(tmp_path, "schedule.rounds=0", f"seed={seed}", f"optimizer.lr={lr}")
        for seed, lr in ((0, 0.001), (1, 0.001), (0, 0.002))
    )
    for job in (bad, beside, good):
        run_cell(job)
    wandb.teardown()
    whole = (bad.folder / "ledger.jsonl").read_text()
    (bad.folder / "ledger.jsonl").write_text("no line\n")
    studies = (bad.folder.parent.parent, good.folder.parent.parent)
    said = command("wandb", "sync", *studies)
    assert said.code == 1, said
    assert f"{studies[0]}: its own run: not sent: {bad.folder}/ledger.jsonl, line 1 is damaged" in said.out
    assert f"{bad.folder}: not sent: " in said.out
    assert set(server.runs) == {of(beside), of(good), run_id(good.study, STUDY, 0)}
    said = command("wandb", "workspace", *studies, "--offline")
    assert (said.code, said.out.count(f"arms compared: {good.study}"), said.out.count(bad.study)) == (1, 0, 0), said
    assert "section" in said.out
    assert said.err.startswith(f"{studies[0]}: left out: {bad.folder}/ledger.jsonl, line 1 is damaged")
    (bad.folder / "ledger.jsonl").write_text(whole)
    assert command("wandb", "sync", *studies).code == 0
    assert {of(bad), run_id(bad.study, STUDY, 0)} < set(server.runs)
