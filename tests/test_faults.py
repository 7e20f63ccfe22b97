"""Faults around a study are reported in one sentence, lose no work and leave no partial files."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lottery import load
from lottery.commands import run as sweep
from lottery.config.compose import cell_configs
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, LedgerError
from tests.few import few
from tests.server import Server
from tests.test_kill import (
    CELL,
    begun,
    ended,
    executed,
    ledgers,
    marked,
    results,
    same,
    undisturbed,
    until,
    workers,
)

__all__ = ["undisturbed"]  # a fixture

GO_ON = "nothing is lost: the same command goes on from the last checkpoint"


# two processes at once


@pytest.mark.slow
def test_two_processes_on_one_study_train_each_phase_once(server: Server, tmp_path: Path) -> None:
    for arm in ("imp", "random_reinit"):
        assert server.run(tmp_path / "one", *CELL, f"arm={arm}")[0] == 0
    # both arms need imp's dense training; the third process wants the same cell as the first
    both, arms = tmp_path / "both", ("imp", "random_reinit", "imp")
    pids = [server.start(both, *CELL, f"arm={arms[0]}")]
    assert until(lambda: begun(both / "runs"), pids[0])
    os.kill(pids[0], signal.SIGSTOP)  # until the others want what it trains
    pids += [server.start(both, *CELL, f"arm={arm}") for arm in arms[1:]]
    assert until(lambda: (both / "said.txt").read_text().count(f"waiting for process {pids[0]}") == 2, pids[1])
    os.kill(pids[0], signal.SIGCONT)
    assert [server.wait(pid) for pid in pids] == [0, 0, 0]

    assert same(tmp_path / "both" / "runs", tmp_path / "one" / "runs")
    assert executed(tmp_path / "both" / "runs") == executed(tmp_path / "one" / "runs") == 3 * 200


def test_a_phase_whose_process_is_killed_is_taken_over_by_the_one_that_waits(server: Server, tmp_path: Path) -> None:
    command = (*CELL, "hardware.checkpoint_seconds=1e-9")
    first = server.start(tmp_path, *command, "out=first", "store=runs/store")
    assert until(lambda: begun(tmp_path / "runs") >= 100, first)
    os.kill(first, signal.SIGSTOP)  # alive, so its lease holds however long the second takes to begin
    second = server.start(tmp_path, *command, "out=second", "store=runs/store")
    assert until(lambda: "waiting for process" in (tmp_path / "said.txt").read_text(), second)
    os.kill(first, signal.SIGKILL)
    assert server.wait(first) == -signal.SIGKILL
    assert server.wait(second) == 0
    assert 400 <= executed(tmp_path / "runs") <= 420


# damage


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        *(pytest.param(text, marks=pytest.mark.slow) for text in (b"hello\n", b"[1, 2]\n", b"seed: 0\n")),
    ],
)
def test_a_damaged_configuration_is_no_obstacle(server: Server, tmp_path: Path, content: bytes) -> None:
    assert server.run(tmp_path, *CELL)[0] == 0
    [path] = (tmp_path / "runs").glob("*/*/*/config.yaml")
    whole, lines = path.read_bytes(), results(tmp_path / "runs")
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=rf"^{path} is damaged: it "):
        load(path.parent, 1)
    assert server.run(tmp_path, *CELL)[0] == 0
    assert (path.read_bytes(), results(tmp_path / "runs")) == (whole, lines)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def swap(path: Path) -> None:
    other = next(file for file in path.parents[1].glob(f"*/{path.name}") if file != path)
    shutil.copy(other, path)


@pytest.mark.parametrize(
    ("name", "damage"),
    few(
        [
            ("result.safetensors", swap),
            ("phase.json", flip),
            ("result.safetensors", Path.unlink),
            ("result.safetensors", flip),
            ("result.safetensors", truncate),
            ("phase.json", truncate),
        ],
        3,
    ),
)
def test_a_damaged_entry_is_named_set_aside_and_trained_anew(
    cell: Callable[..., Cell],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    runs = tmp_path / "runs"
    for copy in ("undisturbed", "runs"):
        record_cell(cell(), tmp_path / copy / "study" / "imp" / "seed0", Store(tmp_path / copy / "store"))
    key = json.loads((runs / "study" / "imp" / "seed0" / NAME).read_text().splitlines()[1])["phase"]
    damage(runs / "store" / key / name)
    (runs / "study" / "imp" / "seed0" / NAME).unlink()
    record_cell(cell(), runs / "study" / "imp" / "seed0", Store(runs / "store"))

    (said,) = (record.getMessage() for record in caplog.records if record.name.startswith("lottery"))
    assert str(runs / "store" / key / name) in said
    assert f"set aside as {runs / 'store' / key}.damaged.1, trained anew" in said
    assert (runs / "store" / f"{key}.damaged.1").is_dir()
    assert same(runs, tmp_path / "undisturbed")
    reused = [json.loads(line)["run"]["reused"] for line in (runs / "study/imp/seed0" / NAME).read_text().splitlines()]
    assert reused == [True, False, True]


@pytest.mark.parametrize("damage", few([flip, truncate], 1))
def test_a_damaged_checkpoint_costs_its_phase_only(
    server: Server, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    command = (*CELL, "hardware.checkpoint_seconds=1e-9")
    assert server.run(tmp_path, *command, dies=5)[0] == -signal.SIGKILL
    (checkpoint,) = (tmp_path / "runs" / "store").glob("*/checkpoint.safetensors")
    damage(checkpoint)
    code, said = server.run(tmp_path, *command)
    assert code == 0
    assert f"{checkpoint.relative_to(tmp_path)} is damaged" in said
    assert "the phase begins anew" in said
    assert 400 < executed(tmp_path / "runs") <= 400 + 100  # how far it had come depends on the machine's speed


def test_a_torn_last_line_is_written_again(cell: Callable[..., Cell], tmp_path: Path) -> None:
    folder, store = tmp_path / "seed0", Store(tmp_path / "store")
    record_cell(cell(), folder, store)
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    for length in (1, len(lines[2]) // 2, len(lines[2]) - 1):
        (folder / NAME).write_bytes(b"".join(lines[:2]) + lines[2][:length])
        assert not Ledger(folder / NAME).finished()
        record_cell(cell(), folder, store)
        again = (folder / NAME).read_bytes().splitlines(keepends=True)
        assert again[:2] == lines[:2]
        assert again[2].rpartition(b', "run": {')[0] == lines[2].rpartition(b', "run": {')[0] != b""
        assert len(again) == 3


def test_a_line_damaged_in_the_middle_is_refused_and_kept(cell: Callable[..., Cell], tmp_path: Path) -> None:
    folder, store = tmp_path / "seed0", Store(tmp_path / "store")
    record_cell(cell(), folder, store)
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    torn = lines[0] + lines[1][:50] + b"\n" + lines[2]
    (folder / NAME).write_bytes(torn)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 2 is damaged: .*; move the file away"):
        record_cell(cell(), folder, store)
    assert (folder / NAME).read_bytes() == torn


SERIAL = (*CELL, "hardware.checkpoint_seconds=1e-9", "seed=0,1", "-m")


@pytest.mark.slow
def test_a_damaged_ledger_fails_its_own_cell_alone(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, *CELL)[0] == 0
    [path] = (tmp_path / "runs").glob(f"*/*/*/{NAME}")
    whole = path.read_bytes()
    path.write_bytes(b"{}\n" + whole)
    code, said = server.run(tmp_path, *SERIAL)
    damage = f"{path.relative_to(tmp_path)}, line 1 is damaged: 'round'; move the file away"
    assert code == 1
    assert f"imp seed 0 FAILED: {damage}\n" in said
    assert f"left out of the report: {damage}\n" in said
    assert f"{path.parents[2].name} imp seed 0: {damage}\n" in said
    assert "1 of 2 cells are unfinished; the same command goes on\n" in said
    assert "Traceback" not in said
    assert path.read_bytes() == b"{}\n" + whole
    assert [line["round"] for line in Ledger(path.parents[1] / "seed1" / NAME).lines()] == [0, 1]
    steps = executed(tmp_path / "runs")

    path.unlink()
    assert server.run(tmp_path, *SERIAL)[0] == 0
    assert executed(tmp_path / "runs") == steps
    assert ledgers(undisturbed).items() <= ledgers(tmp_path / "runs").items()


@pytest.mark.slow
def test_gc_beside_a_running_cell_removes_nothing(server: Server, tmp_path: Path) -> None:
    command = (*CELL, "arm=random_reinit", "schedule.rounds=2", "hardware.checkpoint_seconds=1e-9")
    store = tmp_path / "runs" / "store"
    # round 2 begins with masks from round 1 of imp, which no ledger names before round 2 is over
    pid = server.start(tmp_path, *command)
    assert until(lambda: begun(tmp_path / "runs") >= 620, pid)
    os.kill(pid, signal.SIGSTOP)
    assert len(Store(store).entries()) == 3
    [ledger] = (tmp_path / "runs").glob(f"*/*/*/{NAME}")
    assert len(Ledger(ledger).lines()) == 2
    there = sorted(store.iterdir())
    code, said = server.run(tmp_path / "gc", "store", "gc", "--out", str(tmp_path / "runs"))
    assert code == 1
    assert f"lottery: {ledger.parent}: process {pid} on " in said
    assert "works there, and what it trains is in no ledger yet; wait until it has ended\n" in said
    assert sorted(store.iterdir()) == there

    os.kill(pid, signal.SIGKILL)  # it will be started again
    assert server.wait(pid) == -signal.SIGKILL
    code, said = server.run(tmp_path / "gc", "store", "gc", "--out", str(tmp_path / "runs"))
    assert code == 0
    assert "removed 0 entries, 0.0 MB\n1 more are in no ledger, but younger than a day" in said
    assert sorted(store.iterdir()) == there
    assert server.run(tmp_path, *command)[0] == 0
    assert 800 <= executed(tmp_path / "runs") <= 820


def test_whatever_a_report_fails_with_the_unfinished_cells_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = cell_configs([*CELL[1:], f"out={tmp_path}", "seed=0,1", "-m"])
    for error, sentence in (
        (LedgerError("a and b contradict each other"), "a and b contradict each other"),
        (ValueError("no axis"), "ValueError: no axis"),
        (OSError(28, "No space left on device", "x"), "x: No space left on device"),
    ):
        monkeypatch.setattr(sweep, "publish", lambda _, error=error: (_ for _ in ()).throw(error))
        assert sweep._conclude([], cells, None) == 1
        assert capsys.readouterr().err.splitlines() == [
            f"no report: {sentence}",
            *(f"{job}: did not finish" for job in cells),
            f"2 of 2 cells are unfinished; {sentence}; the same command goes on",
        ]


# disks


def whole(runs: Path) -> None:
    """Asserts that everything can be read and no partial file remains."""
    Store(runs / "store").entries()
    assert not list(runs.rglob("*.damaged.*"))
    assert not [path for path in runs.rglob(".*") if path.is_file()]
    for path in runs.rglob(NAME):
        assert path.read_bytes().endswith(b"\n")
    for path in runs.rglob("config.yaml"):
        assert path.read_text().endswith("\n")


# room for nothing, for config.yaml, for no checkpoint, and for one but not for more
@pytest.mark.parametrize("room", few([0, 300, 4, 16, 700], 1))
def test_a_full_disk_is_named_and_the_command_goes_on_when_there_is_room(
    server: Server, undisturbed: Path, mount: Callable[..., Path], tmp_path: Path, room: int
) -> None:
    command = (*CELL, "hardware.checkpoint_seconds=1e-9")
    out = mount(f"size={room + 4}k") / "runs"
    (out.parent / "filler").write_bytes(bytes(4096))
    code, said = server.run(tmp_path, *command, f"out={out}")
    assert code == 1
    assert "Traceback" not in said
    assert f"FAILED: {out}" in said
    assert "No space left on device" in said
    assert "1 of 1 cells are unfinished; the same command goes on" in said
    whole(out)

    mount("remount,size=50m")
    assert server.run(tmp_path, *command, f"out={out}")[0] == 0
    assert same(out, undisturbed)


@pytest.mark.parametrize("room", few([300, 0, 4, 24, 100], 1))  # for no page, nothing, ..., and no figure
def test_a_report_that_finds_no_room_is_whole_as_far_as_it_goes(
    server: Server, undisturbed: Path, mount: Callable[..., Path], tmp_path: Path, room: int
) -> None:
    out = mount(f"size={room + 4}k") / "report"
    (out.parent / "filler").write_bytes(bytes(4096))
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    code, said = server.run(tmp_path, "report", str(undisturbed), "--out", str(out))
    assert code == 1
    assert said.splitlines()[-1].startswith(f"lottery: {out}")
    assert said.endswith(": No space left on device\n")
    assert "Traceback" not in said
    assert "page    " not in said
    begun = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    mount("remount,size=50m")
    assert server.run(tmp_path, "report", str(undisturbed), "--out", str(out))[0] == 0
    done = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "report.html" in done
    assert begun.items() <= done.items()
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.slow
def test_a_read_only_folder_is_named_and_left_alone(
    server: Server, undisturbed: Path, mount: Callable[..., Path], tmp_path: Path
) -> None:
    out = mount("size=50m") / "runs"
    for begun_before in (False, True):
        if begun_before:
            assert server.run(tmp_path, *CELL, f"out={out}")[0] == 0
            ledger = next(out.rglob(NAME))
            ledger.write_bytes(ledger.read_bytes()[:-9])  # one round is to be written again
        before = sorted(out.rglob("*"))
        mount("remount,ro")
        code, said = server.run(tmp_path, *CELL, f"out={out}")
        assert code == 1
        assert f"{out}" in said
        assert "Read-only file system" in said
        assert "Traceback" not in said
        assert sorted(out.rglob("*")) == before
        mount("remount,rw")
    assert server.run(tmp_path, *CELL, f"out={out}")[0] == 0
    assert same(out, undisturbed)


# signals


@pytest.mark.parametrize(
    ("number", "code", "word"), few([(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")], 1)
)
def test_a_stopped_cell_says_how_to_go_on(
    server: Server, undisturbed: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    command = (*CELL, "hardware.checkpoint_seconds=1e-9")
    pid = server.start(tmp_path, *command, MARK=str(tmp_path))
    assert until(lambda: begun(tmp_path / "runs") >= 100, pid)
    os.killpg(pid, number)
    assert server.wait(pid) == code
    said = (tmp_path / "said.txt").read_text()
    assert f"{word}; {GO_ON}" in said
    assert "Traceback" not in said
    assert ended(pid)
    whole(tmp_path / "runs")

    assert server.run(tmp_path, *command)[0] == 0
    assert same(tmp_path / "runs", undisturbed)
    assert 400 <= executed(tmp_path / "runs") <= 420


SWEEP = (*SERIAL[:-1], "hydra/launcher=local", "hydra.launcher.n_jobs=2", "-m")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_sweep_leaves_no_process_and_goes_on(
    server: Server, undisturbed: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    pid = server.start(tmp_path, *SWEEP, MARK=str(tmp_path))
    assert until(lambda: begun(tmp_path / "runs") >= 40, pid)
    assert len(workers(str(tmp_path))) == 2
    # a terminal sends Ctrl-C to the whole group, a scheduler or `kill` SIGTERM to the command
    (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
    assert server.wait(pid) == code
    said = (tmp_path / "said.txt").read_text()
    assert f"{word}; {GO_ON}" in said
    assert "Traceback" not in said
    assert until(lambda: not marked(str(tmp_path)))

    assert server.run(tmp_path, *SERIAL)[0] == 0
    lines = {name: lines for name, lines in ledgers(tmp_path / "runs").items() if "/seed0/" in name}
    assert lines == ledgers(undisturbed)
    assert 800 <= executed(tmp_path / "runs") <= 800 + 2 * 20


@pytest.mark.slow
def test_a_terminated_worker_ends_the_sweep_with_a_word(server: Server, tmp_path: Path) -> None:
    pid = server.start(tmp_path, *SWEEP, MARK=str(tmp_path))
    assert until(lambda: begun(tmp_path / "runs") >= 40, pid)
    for worker in workers(str(tmp_path)):
        os.kill(worker, signal.SIGTERM)
    assert server.wait(pid) == 1
    said = (tmp_path / "said.txt").read_text()
    assert "2 of 2 cells are unfinished; a worker process was killed" in said
    assert "Traceback" not in said
    assert until(lambda: not marked(str(tmp_path)))


# divergence


@pytest.mark.slow
def test_a_diverging_cell_stops_alone_and_is_named(server: Server, tmp_path: Path) -> None:
    code, said = server.run(tmp_path, *CELL, "optimizer=sgd", "optimizer.lr=1e30,0.1", "seed=3", "-m")
    assert code == 1
    assert "imp seed 3 FAILED: imp, seed 3, round 0: the loss became " in said
    assert "learning rate 1e+30" in said
    assert "1 of 2 cells are unfinished" in said
    assert "Traceback" not in said
    (ledger,) = ledgers(tmp_path / "runs").values()
    assert len(ledger) == 2
    (report,) = (tmp_path / "runs").glob("*/report.md")
    assert "imp: n = 1 (seeds 3)" in report.read_text()
    assert [len(rows) for _, _, rows in results(tmp_path / "runs").values()] == [10, 10]


def test_a_report_names_the_rounds_that_are_missing(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "runs")
    ledger = next((tmp_path / "runs").rglob(NAME))
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    study = ledger.parents[2]
    code, said = server.run(tmp_path, "report", str(study))
    assert code == 0
    assert f"- {study.name} imp seed 0: 0 of 1 pruned rounds" in said


@pytest.mark.parametrize(
    ("words", "control"),
    [
        (["arm=imp,random_reinit"], "arm=random_mask"),
        (["arm=at_init,set"], "arm=random_mask arm.parent=at_init"),
        (["arm=random_reinit", "arm.parent=at_init"], None),  # whose masks they are depends on more than a name
        (["arm=rigl", "arm.during.every=5"], None),
        (["arm=random_mask"], None),
    ],
)
def test_the_control_to_try_next_shuffles_the_masks_of_the_arm_that_was_run(
    words: list[str], control: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["data=digits", *words, "-m"]
    sweep._suggest(asked, cell_configs(asked))
    shown = [line for line in capsys.readouterr().out.splitlines() if "another control" in line]
    assert shown == (
        [f"  lottery run data=digits -m {control}    # another control: the masks shuffled within each layer"]
        if control
        else []
    )
