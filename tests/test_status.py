"""Status of each cell, and the heartbeat that it is read from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lottery.commands import main as cli
from lottery.commands import status
from lottery.commands.status import LINES, STATES, Facts, look, report, row, show, span, state
from lottery.reports.results import read
from lottery.rounds.study import Cell
from lottery.running import cell as study
from lottery.running import progress
from lottery.running.progress import Progress
from lottery.running.slurm import queue as slurm
from lottery.running.slurm.queue import Queued
from lottery.store import leases
from lottery.store.entries import Store
from lottery.store.folder import BEAT, ERROR, JOB, NAME
from lottery.store.ledger import Line
from lottery.store.owners import this_process
from tests.conftest import environment
from tests.test_leases import ELSEWHERE, dead_pid, leave
from tests.test_ledger import line

PULSE = {"round": 3, "rounds": 4, "step": 200, "last": 500, "seconds_left": 5400, "host": "n1", "pid": 7, "job": None}


def facts(seed: int = 0, **more: Any) -> Facts:
    return Facts(**{"study": "s", "arm": "imp", "seed": seed, **more})


def queue(state: str, reason: str = "None", node: str = "") -> dict[str, Queued]:
    return {"12_3": Queued(state, reason, node), "12_4": Queued("RUNNING", "None", "n9")}


# what a cell's facts mean

FRESH: dict[str, Any] = {"held": True, "age": 4.0}


@pytest.mark.parametrize(
    ("cell", "asked", "expected"),
    [
        (facts(complete=True), None, "finished"),
        (facts(complete=True, job="12_3"), queue("COMPLETING"), "finished"),
        (facts(error="out of memory"), {}, "failed"),
        (facts(error="an analysis failed", complete=True), {}, "failed"),
        (facts(error="out of memory", job="12_3", **FRESH), queue("RUNNING"), "failed"),
        (facts(error="out of memory", job="12_3"), queue("PENDING"), "waiting"),  # submitted again
        *((facts(job="12_3", **FRESH), queue(each), "waiting") for each in ("PENDING", "CONFIGURING", "REQUEUED")),
        *((facts(job="12_3", age=9e9), queue(each), "running") for each in ("RUNNING", "COMPLETING")),
        (facts(begun=False, job="12_3"), queue("PENDING"), "waiting"),
        (facts(begun=False), queue("PENDING"), "not started"),
        (facts(begun=False), None, "not started"),
        *((facts(**FRESH), asked, "running") for asked in (None, {}, queue("PENDING"))),
        (facts(job="12_3", **FRESH), {}, "running"),  # another user's job, or one of another cluster
        (facts(job="12_3", **FRESH), None, "running"),
        (facts(job="12_3"), None, "stopped"),
        (facts(job="12_3"), {"12": Queued("RUNNING", "None", "n1")}, "stopped"),
        (facts(held=False, age=4.0), None, "stopped"),  # its process is dead, or has gone
        (facts(held=True, age=leases.DEAD_AFTER), None, "stopped"),
        (facts(held=True, age=leases.DEAD_AFTER - 0.1), None, "running"),
        (facts(held=True, age=-3600.0), None, "running"),  # by a clock that is ahead
        (facts(held=True), None, "running"),  # since a moment ago
        (facts(), {}, "stopped"),
    ],
)
def test_state_of_a_cell(cell: Facts, asked: dict[str, Queued] | None, expected: str) -> None:
    assert state(cell, asked) == expected
    assert expected in STATES


LEDGER = [{"round": index, "rounds": 4} for index in range(2)]


@pytest.mark.parametrize(
    ("cell", "asked", "expected"),
    [
        (
            facts(lines=LEDGER, beat=PULSE, **FRESH),
            None,
            ["running", "2/5", "n1", "4 s ago", "90 min", "round 3, step 200 of 500"],
        ),
        (
            facts(lines=LEDGER, beat={**PULSE, "job": "9"}, job="12_3", **FRESH),
            queue("RUNNING", node="n2"),
            ["running", "2/5", "n2, job 12_3", "4 s ago", "90 min", "round 3, step 200 of 500"],
        ),
        (
            facts(beat={**PULSE, "job": "12_3"}, job="12_3", age=200.0),
            queue("PENDING", "BeginTime"),
            ["waiting", "0/5", "job 12_3", "3 min ago", "90 min", "BeginTime"],
        ),
        (facts(begun=False, job="12_3"), queue("PENDING"), ["waiting", "", "job 12_3", "", "", "PENDING"]),
        (facts(beat=PULSE, age=7200.0), {}, ["stopped", "0/5", "n1", "2 h ago", "90 min", "the same command goes on"]),
        (
            facts(error="no space left", beat={**PULSE, "job": "12_3"}, age=0.0),
            {},
            ["failed", "0/5", "n1, job 12_3", "0 s ago", "", "no space left"],
        ),
        (
            facts(lines=[*LEDGER, {"round": 2, "rounds": 4, "stopped": "density"}], complete=True, beat=PULSE),
            {},
            ["finished", "3/5", "n1", "", "", "ended early: density"],
        ),
        (facts(begun=False), {}, ["not started", "", "", "", "", ""]),
        (
            facts(**FRESH),  # it starts, or waits for what another cell trains
            {},
            ["running", "", "", "4 s ago", "", "starts or waits"],
        ),
        (facts(beat={**PULSE, "seconds_left": None}, **FRESH), {}, None),
        (facts(beat={"rounds": "many", "seconds_left": "few"}, **FRESH), {}, None),  # of another version
    ],
)
def test_row_of_a_cell(cell: Facts, asked: dict[str, Queued] | None, expected: list[str] | None) -> None:
    found = row(cell, asked)
    assert found[:2] == ["s", "imp seed 0"]
    if expected is None:
        assert found[6] == ""
    else:
        assert found[2:] == expected


def test_no_age_is_negative_and_the_rough_ones_are_rough() -> None:
    spans = [span(seconds) for seconds in (-3600, -0.1, 0, 119, 121, 7199, 7201, 172_799, 172_801, 9e6)]
    assert spans == ["0 s", "0 s", "0 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 d", "104 d"]


# all cells

MANY = [
    *(facts(seed, complete=True) for seed in range(60)),
    *(facts(seed, begun=False) for seed in range(60, 62)),
    *(facts(seed, job="12_3") for seed in range(62, 65)),
    *(facts(seed) for seed in range(65, 67)),
    *(facts(seed, **FRESH) for seed in range(67, 70)),
    facts(70, error="no space left"),
]


def test_counts_come_first_and_then_what_may_want_a_hand() -> None:
    lines = report(MANY, queue("PENDING", "Resources"))
    counts = ["1 failed", "3 running", "2 stopped", "3 waiting", "2 not started", "60 finished", ""]
    assert lines[:7] == counts
    assert lines[7].split() == ["cell", "state", "rounds", "where", "heartbeat", "left", "what"]
    seeds = [int(text.split()[2]) for text in lines[8:-1]]
    assert seeds == [70, 67, 68, 69, 65, 66, 62, 63, 64, 60, 61, *range(20)]
    assert lines[-1] == "40 more cells are not shown; --all shows them"
    assert len(lines) == LINES
    assert len({text.index("imp") for text in lines[8:-1]}) == 1
    at = lines[7].index("state")
    assert all(text[at - 2 : at] == "  " and text[at] != " " for text in lines[8:-1])


@pytest.mark.parametrize("note", ["", "squeue is not on the path"])
@pytest.mark.parametrize("many", [1, 30, 35, 36, 37, 38, 39, 40])
def test_no_cell_is_hidden_without_need(many: int, note: str) -> None:
    cells = [facts(seed, complete=True) for seed in range(many)]
    lines = report(cells, {}, note)
    shown = [text for text in lines if text.startswith("imp")]
    assert len(lines) <= LINES
    assert (note in lines) or not note
    fits = LINES - 3 - bool(note)
    if many <= fits:
        assert len(shown) == many
        assert "--all" not in lines[-1]
    else:
        assert len(shown) == fits - 1
        assert lines[-1] == f"{many - fits + 1} more cells are not shown; --all shows them"
    everything = report(cells, {}, note, None)
    assert len([text for text in everything if text.startswith("imp")]) == many
    assert "--all" not in everything[-1]


def test_studies_are_named_where_there_are_several() -> None:
    lines = report([facts(2), facts(10), facts(1, study="another")], None)
    assert lines[2].split()[:2] == ["study", "cell"]
    assert [text.split()[:4] for text in lines[3:]] == [
        ["another", "imp", "seed", "1"],
        ["s", "imp", "seed", "2"],
        ["s", "imp", "seed", "10"],
    ]


# from folders


def cell_at(runs: Path, seed: int = 0, done: int = 0, arm: str = "imp") -> Path:
    """A cell's folder with some of 3 + 1 rounds in its ledger."""
    folder = runs / "study-1" / arm / f"seed{seed}"
    folder.mkdir(parents=True)
    if done:
        (folder / NAME).write_text("".join(json.dumps(line(index)) + "\n" for index in range(done)))
    return folder


def pulse(folder: Path, **more: Any) -> None:
    (folder / BEAT).write_text(json.dumps({**PULSE, **more}))


def told(folder: Path) -> str:
    return state(look(folder), None)


def test_a_cell_s_life_as_its_folder_tells_it(tmp_path: Path) -> None:
    folder = cell_at(tmp_path)
    assert told(folder) == "not started"
    (folder / ".lease0a1b").write_text("")  # a file that is just being written
    assert told(folder) == "not started"
    with leases.hold(folder):
        assert told(folder) == "running"  # before its first step
        pulse(folder)
        assert told(folder) == "running"
    assert told(folder) == "stopped"  # released, however fresh
    leave(folder, number=2, pid=dead_pid())
    assert told(folder) == "stopped"
    (folder / NAME).write_text("".join(json.dumps(line(index)) + "\n" for index in range(4)))
    assert told(folder) == "finished"
    (folder / "connectivity.jsonl").write_text(json.dumps(line(0)) + "\n")
    assert told(folder) == "stopped"  # its analysis is behind
    (folder / ERROR).write_text("no space left\n\nTraceback ...\n")
    assert (told(folder), look(folder).error) == ("failed", "no space left")
    (folder / ERROR).write_text("")  # the disk had room for its name alone
    assert (told(folder), look(folder).error) == ("failed", "error.txt is empty, as on a full disk")


@pytest.mark.parametrize(("done", "holds", "expected"), [(4, False, "finished"), (1, True, "running")])
def test_a_process_that_writes_while_one_looks_is_not_mistaken(
    done: int, holds: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cell_at(tmp_path)
    (folder / JOB).write_text("{}")

    def held(_: Path) -> bool:  # by then its ledger was there, and if it let go, the last of its lines
        (folder / NAME).write_text("".join(json.dumps(line(index)) + "\n" for index in range(done)))
        return holds

    monkeypatch.setattr(leases, "held", held)
    assert told(folder) == expected


@pytest.mark.parametrize(
    ("written", "expected", "age"),
    [
        (0, "running", "0 s ago"),
        (-30, "running", "30 s ago"),
        (3600, "running", "0 s ago"),  # the file system's own clock is ahead of ours
        (-3600, "stopped", "60 min ago"),
    ],
)
@pytest.mark.parametrize("at", ["2001-01-01T00:00:00+00:00", "2101-01-01T00:00:00+00:00"])
def test_another_machine_s_process_lives_while_the_file_system_sees_it_write(
    at: str, written: int, expected: str, age: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, folder = time.time(), cell_at(tmp_path)
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now))
    pulse(folder, at=at)  # what the writer's clock says
    for path in (leave(folder, **ELSEWHERE), folder / BEAT):
        os.utime(path, (now + written,) * 2)
    assert told(folder) == expected
    assert row(look(folder), None)[5] == age


def test_a_torn_last_line_is_no_round_and_a_damaged_ledger_hides_no_other_cell(tmp_path: Path) -> None:
    torn, damaged, strange = (cell_at(tmp_path, seed, done=3) for seed in range(3))
    with open(torn / NAME, "a") as file:
        file.write('{"round": 3, "rou')
    (damaged / NAME).write_text("{}\n" + (damaged / NAME).read_text())
    (strange / NAME).write_text('{"round": 0}\n')  # by hand
    for seed, content in enumerate(("[]", "null", '{"round": ', '"12_3"', '{"job": [3]}', '{"rounds": null}'), 3):
        folder = cell_at(tmp_path, seed)
        for name in (BEAT, JOB):
            (folder / name).write_text(content)
    (cell_at(tmp_path, 9, arm="other") / NAME).mkdir()  # what can't be read
    lines = show([tmp_path]).splitlines()
    assert lines[:2] == ["3 failed", "7 stopped"]
    rows = {(texts[0], texts[2]): text for text in lines if (texts := text.split())[1:2] == ["seed"]}
    assert len(rows) == 10
    assert "3/4" in rows["imp", "0"]
    assert f"{damaged / NAME}, line 1 is damaged: 'round'; move the file away" in rows["imp", "1"]
    assert f"{strange / NAME}, line 1 is damaged: 'rounds'; move the file away" in rows["imp", "2"]
    assert "can't be read: IsADirectoryError" in rows["other", "9"]


def test_cells_are_found_from_wherever_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cell_at(tmp_path, 3, done=4)
    (tmp_path / "store" / "seed0").mkdir(parents=True)
    (tmp_path / "store" / "0a1b").mkdir()
    (folder / "seed9").mkdir()  # what somebody keeps there
    (tmp_path / "study-1" / "report.md").write_text("")
    (tmp_path / "study-1" / "again").symlink_to(tmp_path)
    for paths in ([tmp_path], [folder], [folder.parent, tmp_path], sorted(tmp_path.glob("*"))):
        assert status.find(paths) == [folder]
    for place in (tmp_path, folder, folder.parent):
        monkeypatch.chdir(place)
        assert [(cell.study, cell.arm, cell.seed) for cell in map(look, status.find([Path()]))] == [
            ("study-1", "imp", 3)
        ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often Slurm was asked; it knows of job 12_3."""
    calls: list[str] = []

    def answer() -> dict[str, Queued]:
        calls.append("squeue")
        return queue("PENDING", "Resources")

    monkeypatch.setattr(slurm, "queue", answer)
    return calls


def test_slurm_is_asked_once_and_only_for_cells_that_it_could_know(asked: list[str], tmp_path: Path) -> None:
    done, (idle, *waiting) = cell_at(tmp_path, 0, done=4), [cell_at(tmp_path, seed) for seed in (1, 2, 3)]
    (done / JOB).write_text('{"job": "12_3"}')
    (idle / NAME).write_text("")
    show([tmp_path])
    assert asked == []
    for folder in waiting:
        (folder / JOB).write_text('{"job": "12_3", "starts": 1, "position": [1, 40, 0]}')
    said = show([tmp_path])
    assert asked == ["squeue"]
    assert said.splitlines()[:3] == ["1 stopped", "2 waiting", "1 finished"]
    assert said.count("Resources") == 2
    (done / ERROR).write_text("an analysis failed")
    for folder in waiting:
        (folder / JOB).unlink()
    show([tmp_path])
    assert asked == ["squeue", "squeue"]


def test_without_slurm_heartbeats_tell_and_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise slurm.Unavailable("Slurm does not answer: squeue took more than 30 s")

    monkeypatch.setattr(slurm, "queue", unavailable)
    for seed in range(2):
        folder = cell_at(tmp_path, seed)
        (folder / JOB).write_text('{"job": "12_3"}')
    with leases.hold(folder):
        said = show([tmp_path])
    assert said.splitlines()[:2] == ["1 running", "1 stopped"]
    assert said.count("Slurm does not answer") == 1


# the command

LIGHT = """
import sys
from lottery.commands.main import main
sys.argv = ["lottery", "status", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    heavy = {"torch", "pandas", "numpy", "matplotlib", "hydra", "wandb", "scipy"} & sys.modules.keys()
    assert not heavy, heavy
    sys.exit(stop.code)
"""


def test_the_command_imports_nothing_heavy_and_says_in_one_sentence_what_it_lacks(tmp_path: Path) -> None:
    def command(*arguments: object) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, *map(str, arguments)],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    for seed in range(50):
        cell_at(tmp_path / "runs", seed, done=4)
    code, out, err = command("runs")
    assert (code, err, len(out.splitlines())) == (0, "", LINES)
    assert len(command("runs", "--all")[1].splitlines()) == 53
    assert command("runs", "nowhere") == (1, "", "lottery: nowhere: no such folder\n")
    (tmp_path / "empty").mkdir()
    code, out, err = command("empty")
    assert (code, out) == (1, "")
    assert err == "lottery: no cell under empty: cells are folders like STUDY/ARM/seed0\n"


def test_the_help_names_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["lottery", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    signal.signal(signal.SIGTERM, before)
    assert "status" in capsys.readouterr().out


# the heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def part(index: int, first: int = 0, last: int = 500) -> Any:
    return SimpleNamespace(index=index, first=first, last=last, copy=0)


def ended(index: int, reused: bool = False, **more: Any) -> tuple[Line, list[dict[str, float]]]:
    """A round as it is passed to views at its end."""
    made = {
        "round": index,
        "rounds": 2,
        "density": 1.0,
        "test_accuracy": 0.9,
        "train_steps": 500,
        "run": {"reused": reused},
    }
    return Line({**made, **more}), [{"step": 250}, {"step": 500}]


@pytest.fixture
def view(cell: Callable[..., Cell], tmp_path: Path, clock: Clock) -> Progress:
    """Of a cell with two pruned rounds."""
    return Progress(cell(), tmp_path)


def heard(folder: Path) -> dict[str, Any]:
    """The heartbeat since the last call, removed on reading; asserts that there are no other files."""
    assert [path.name for path in folder.iterdir()] == [BEAT]
    content = json.loads((folder / BEAT).read_text())
    (folder / BEAT).unlink()
    return content


def test_a_heartbeat_says_how_far_and_how_long(
    view: Progress, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    view.advanced(part(0), 10, None)
    first = heard(tmp_path)  # at once: it tells a cell that has begun from one that waits
    assert (first["step"], first["seconds_left"], first["job"]) == (10, None, None)
    assert (first["host"], first["pid"]) == (this_process()["host"], os.getpid())
    assert first["at"].endswith("+00:00")
    assert len(first["at"]) == 25
    for step in (20, 40):  # the pace is taken from here on: 5 steps/s
        clock.now += 4.0
        view.advanced(part(0), step, None)
        clock.now += 0.9 if step == 20 else 0.0
    clock.now += 1.0
    view.advanced(part(0), 45, None)
    beat = heard(tmp_path)
    assert {key: beat[key] for key in ("round", "rounds", "step", "last")} == {
        "round": 0, "rounds": 2, "step": 40, "last": 500,
    }  # fmt: skip
    left = 500 - 40 + 2 * 500
    assert beat["steps_per_second"] == pytest.approx(20 / 4.9, abs=0.01)
    assert beat["seconds_left"] == round(left / (20 / 4.9))


def test_a_heartbeat_comes_every_few_seconds_and_at_the_end_of_each_round(
    view: Progress, tmp_path: Path, clock: Clock
) -> None:
    beats = []
    for step in range(1, 401):
        clock.now += 0.1
        view.advanced(part(0), step, None)
        if (tmp_path / BEAT).exists():
            beats.append(heard(tmp_path)["step"])
    assert beats[0] == 1
    assert {later - sooner for sooner, later in pairwise(beats)} <= {50, 51}
    assert len(beats) == 8
    view.finished(*ended(0))
    beat = heard(tmp_path)
    assert (beat["round"], beat["step"], beat["last"], beat["seconds_left"]) == (0, 500, 500, 100)
    view.finished(*ended(1, stopped="density"))
    assert heard(tmp_path)["seconds_left"] == 0


def test_rounds_from_the_store_cost_a_file_every_few_seconds_at_most(
    view: Progress, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(progress, "write_whole", lambda path, content: written.append(path))
    for _ in range(100):
        clock.now += 0.01
        view.finished(*ended(0, reused=True))
    assert written == [tmp_path / BEAT]
    clock.now += progress.EVERY_SECONDS
    view.finished(*ended(0, reused=True))
    assert len(written) == 2
    view.finished(*ended(0))
    assert len(written) == 3


def test_of_a_cell_that_came_whole_from_the_store_nothing_is_left(view: Progress, tmp_path: Path) -> None:
    view.finished(*ended(2, reused=True))
    assert heard(tmp_path)["seconds_left"] == 0


def test_a_full_disk_stops_no_training_and_is_not_tried_at_each_step(
    view: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def full(path: Path, content: bytes) -> None:
        tried.append(path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(progress, "write_whole", full)
    for step in range(1, 10):
        view.advanced(part(0), step, None)
    assert len(tried) == 1
    view.finished(*ended(0))
    assert len(tried) == 2


@pytest.mark.parametrize(("array", "job"), [({}, "12"), ({"ARRAY_JOB_ID": "9", "ARRAY_TASK_ID": "3"}, "9_3")])
def test_a_heartbeat_names_slurm_s_job(
    array: dict[str, str], job: str, view: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in {"JOB_ID": "12", **array}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    view.advanced(part(0), 1, None)
    assert heard(tmp_path)["job"] == job


def test_status_of_a_cell_while_it_trains_and_after(
    cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "runs" / "study-1" / "imp" / "seed0", []

    class Looks:
        def advanced(self, *_: Any) -> None:
            seen.append(row(look(folder), None))

        def finished(self, *_: Any) -> None:
            seen.append(row(look(folder), None))

    one = cell()
    study.record_cell(one, folder, Store(tmp_path / "runs" / "store"), [Progress(one, folder), Looks()])
    assert {texts[2] for texts in seen} == {"running", "finished"}
    assert seen[0][3] == "0/3"
    assert seen[0][4] == this_process()["host"]
    assert seen[0][7].startswith("round 0, step ")
    assert [texts[2] for texts in seen].index("finished") == len(seen) - 1
    assert {texts[3] for texts in seen} == {"0/3", "1/3", "2/3", "3/3"}
    lines = show([tmp_path / "runs"]).splitlines()
    assert lines[0] == "1 finished"
    assert lines[-1].split()[:5] == ["imp", "seed", "0", "finished", "3/3"]
    assert not list(folder.glob(".progress*"))
    assert len(read(tmp_path / "runs")) == 3  # a heartbeat is no result
