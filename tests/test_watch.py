"""The live view of running studies: its curve, its frames, when it looks, and when it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.commands import main as cli
from lottery.commands import status
from lottery.commands.status import Facts, show
from lottery.commands.watch import actions
from lottery.commands.watch.actions import Looks
from lottery.commands.watch.curve import curve
from lottery.commands.watch.frame import Point, details, frame, head, reached, seconds_left
from lottery.running.slurm.queue import Queued
from lottery.store import leases
from lottery.store.folder import ERROR, JOB, NAME
from tests.conftest import environment
from tests.test_status import FRESH, PULSE, cell_at, facts, pulse


def measured(index: int, accuracy: float | None, density: float | None = None, **more: Any) -> dict[str, Any]:
    kept = 0.5**index if density is None else density
    run = {"seconds": 60.0, "reused": False}
    scores = {"test_accuracy": accuracy, "early_stop_test_accuracy": accuracy}
    return {"round": index, "rounds": 4, "density": kept, **scores, "run": run, **more}


# the curve


def test_marks_stand_where_a_hand_puts_them() -> None:
    lines = curve({"imp": [(1.0, 0.9), (0.01, 0.9)], "twin": [(1.0, 0.9), (0.1, 0.7), (0.01, 0.5)]}, 31, 5)
    assert lines == [
        "    0.9 |o                   o",  # the first arm lies above the other
        "        |",
        "    0.7 |          x",
        "        |",
        "    0.5 |                    x",
        "        +---------------------",
        "         100 %     10 %    1 %",
    ]


@pytest.mark.parametrize("points", [[], [(1.0, 0.9)], [(1.0, 0.9), (1.0, 0.8)], [(1.0, 0.9), (0.0, 0.1)]])
def test_one_density_has_no_curve(points: list[tuple[float, float]]) -> None:
    assert curve({"imp": points}, 80, 9) == []


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(-1e300, 1e300) | st.just(float("nan"))), max_size=8)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefghij"), POINTS, max_size=10), st.integers(40, 200), st.integers(3, 30))
def test_a_curve_stays_in_its_field(arms: dict[str, Any], width: int, height: int) -> None:
    lines = curve(arms, width, height)
    assert len(lines) in (0, height + 2)
    assert all(len(line) <= width + 5 for line in lines)  # numbers such as -1.235e+300 are long
    assert all(line.isascii() for line in lines)


def test_equal_values_lie_on_one_line() -> None:
    assert sum("o" in line for line in curve({"imp": [(1.0, 0.9), (0.5, 0.9), (0.25, 0.9)]}, 40, 9)) == 1


# a frame


def test_means_are_those_of_the_seeds_that_have_a_round() -> None:
    cells = [
        facts(0, lines=[measured(0, 0.9), measured(1, 0.8)]),
        facts(1, lines=[measured(0, 0.7), measured(1, None)]),
        facts(0, arm="a_twin", lines=[measured(0, 0.5)]),
        facts(2),
    ]
    metric, points = reached(cells)
    assert metric == "accuracy"
    assert list(points) == ["imp", "a_twin"]
    assert points["imp"] == [Point(0, 1.0, pytest.approx(0.8), 2), Point(1, 0.5, 0.8, 1)]
    assert points["a_twin"] == [Point(0, 1.0, 0.5, 1)]


def test_rounds_and_states_are_counted() -> None:
    ended = [measured(0, 0.9), measured(1, 0.9, stopped="density")]
    cells = [
        facts(0, lines=ended, complete=True),  # it has no more to do
        facts(1, lines=[measured(0, 0.9)], beat={**PULSE, "seconds_left": 600}, **FRESH),
        facts(2, beat=PULSE),
    ]
    assert head(cells, None) == ["s", "  3 of 12 rounds, 1 running, 1 stopped, 1 finished, about 10 min left"]
    assert head([facts(0, begun=False)], None) == ["s", "  no round yet, 1 not started"]


def test_time_left_counts_what_waits_its_turn() -> None:
    running = [
        facts(seed, lines=[measured(0, 0.9)], beat={**PULSE, "seconds_left": 100.0 * seed}, **FRESH) for seed in (1, 2)
    ]
    assert seconds_left(running, None) == 200
    waiting = facts(3, begun=False)
    assert seconds_left([*running, waiting], None) == 200 + 5 * 60 / 2  # five rounds of a minute, two at once
    queued = facts(4, lines=[measured(0, 0.9), measured(1, 0.9)], job="12_3")
    assert seconds_left([*running, queued], {"12_3": Queued("PENDING", "Priority", "")}) == 200 + 3 * 60 / 2
    reused = facts(5, complete=True, lines=[measured(0, 0.9, run={"seconds": 0.01, "reused": True})])
    assert seconds_left([*running, waiting, reused], None) == 200 + 5 * 60 / 2  # a round from the store tells nothing
    assert seconds_left([waiting, reused], None) is None
    assert seconds_left([facts(1, beat={"seconds_left": None}, **FRESH)], None) is None


def test_a_frame_shows_curve_arms_and_cells() -> None:
    cells = [
        facts(0, lines=[measured(0, 0.9), measured(1, 0.95)], beat=PULSE, **FRESH),
        facts(1, lines=[measured(0, 0.7)], error="out of memory"),
        facts(0, arm="twin", lines=[measured(index, 0.8) for index in range(5)], complete=True),
    ]
    lines = frame(cells, None)
    assert lines[:3] == [
        "s",
        "  8 of 15 rounds, 1 failed, 1 running, 1 finished, about 90 min left",
        "  test accuracy, mean over seeds, against density",
    ]
    assert lines[-4:] == [
        "o imp  0.95 at 50 % (round 1, n = 1), dense 0.8",
        "x twin  0.8 at 6.25 % (round 4, n = 1), dense 0.8",
        "  imp seed 1: failed, 1/5, out of memory",
        "  imp seed 0: running, 2/5, round 3, step 200 of 500, 90 min left",
    ]
    assert len(lines) == 2 + 1 + 9 + 2 + 4


def test_arms_and_cells_beyond_a_few_are_counted() -> None:
    cells = [facts(0, arm=f"arm{n}", lines=[measured(0, 0.9)]) for n in range(8)]
    lines = details(cells, None)
    assert "  and 2 more arms" in lines
    assert lines[-1] == "  and 4 more cells that are not finished"


STUDIES = st.lists(
    st.tuples(st.sampled_from(["a", "b" * 90, "c", "d", "e"]), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(STUDIES, st.integers(20, 120), st.integers(5, 60), st.sampled_from(["", "Slurm does not answer"]))
def test_a_frame_fits_the_terminal(studies: list[Any], width: int, height: int, note: str) -> None:
    cells = [
        Facts(name, "imp", seed, lines=[measured(index, 0.9) for index in range(done)], **(FRESH if runs else {}))
        for seed, (name, done, runs) in enumerate(studies)
    ]
    lines = frame(cells, None, note, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert (lines[0] == note[:width]) == bool(note)
    running = {cell.study for cell in cells if cell.held}
    assert not running or lines[bool(note)] in {name[:width] for name in running}  # first what runs


def test_hidden_studies_are_counted_and_the_first_keeps_its_curve() -> None:
    cells = [facts(0, study=f"s{n:02}", lines=[measured(0, 0.9), measured(1, 0.8)]) for n in range(30)]
    lines = frame(cells, None, height=24)
    assert any("test accuracy" in line for line in lines)
    assert lines[-1] == "and 26 more studies"
    assert [line for line in lines if line[0] == "s"] == ["s00", "s01", "s02", "s03"]


# looking again and again


def finish(folder: Path, rounds: int = 4) -> None:
    (folder / NAME).write_text("".join(json.dumps(measured(index, 0.9)) + "\n" for index in range(rounds + 1)))


def test_a_finished_cell_is_read_once_until_its_ledger_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, looks = list[Path](), Looks([tmp_path])
    monkeypatch.setattr(actions, "look", lambda folder: (read.append(folder), status.look(folder))[1])
    done, open_ = cell_at(tmp_path, 0), cell_at(tmp_path, 1)
    finish(done)
    assert [len(cell.lines) for cell in looks.next()[0]] == [5, 0]
    assert [len(cell.lines) for cell in looks.next()[0]] == [5, 0]
    assert read == [done, open_, open_]
    finish(done, 2)
    os.utime(done / NAME, ns=(1, 1))
    assert [len(cell.lines) for cell in looks.next()[0]] == [3, 0]
    finish(done)
    looks.next()
    (done / ERROR).write_text("an analysis failed")
    assert looks.next()[0][0].error
    (done / ERROR).unlink()
    assert not looks.next()[0][0].error


def test_slurm_is_not_asked_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, now = list[int](), [1000.0]
    folder = cell_at(tmp_path)
    (folder / JOB).write_text('{"job": "12_3"}')
    monkeypatch.setattr(status.slurm, "queue", lambda: asked.append(1) or {"12_3": Queued("PENDING", "Priority", "")})
    monkeypatch.setattr(actions, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    looks = Looks([tmp_path])
    for at in (0, 10, 29, 31, 40):
        now[0] = 1000.0 + at
        assert looks.next()[1] is not None
    assert len(asked) == 2


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], list[int]]:
    """Lets time fly, and calls what happens between two looks with their number."""

    def hurry(happens: Callable[[int], None]) -> list[int]:
        now, naps = [0.0], list[int]()

        def sleep(seconds: float) -> None:
            now[0] += seconds
            naps.append(len(naps) + 1)
            happens(naps[-1])

        monkeypatch.setattr(actions, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
        return naps

    return hurry


def watched(*words: object) -> int:
    return cli.dispatch(["watch", *map(str, words)])


def test_slurm_is_asked_again_before_the_view_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: Callable[..., list[int]]
) -> None:
    """A job's successor is submitted between two questions: nothing seems to wait any more."""
    folder = cell_at(tmp_path)
    (folder / JOB).write_text('{"job": "1"}')
    waiting = {"1": Queued("PENDING", "Priority", "")}
    monkeypatch.setattr(status.slurm, "queue", lambda: dict(waiting))

    def happens(nap: int) -> None:
        if nap == 2:
            waiting["2"] = waiting.pop("1")
            (folder / JOB).write_text('{"job": "2"}')
        if nap == 60:
            waiting.clear()

    naps = hurried(happens)
    assert watched(tmp_path) == 1  # stopped
    assert 60 < len(naps) < 90


def test_frames_of_a_pipe_come_when_something_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hurried: Callable[..., list[int]]
) -> None:
    folder = cell_at(tmp_path)
    lease = leases.hold(folder)
    lease.__enter__()
    pulse(folder, seconds_left=60)

    def happens(nap: int) -> None:
        if nap == 2:
            pulse(folder, seconds_left=30)  # no reason for a frame
        if nap == 4:
            finish(folder)
            lease.__exit__(None, None, None)

    naps = hurried(happens)
    assert watched(tmp_path) == 0
    out, err = capsys.readouterr()
    frames = [part.splitlines()[1] for part in out.strip().split("\n\n")]
    assert frames == ["  0 of 5 rounds, 1 running, about 60 s left", "  5 of 5 rounds, 1 finished"]
    assert err == ""
    assert actions.QUIET <= (len(naps) - 4) * actions.EVERY < actions.QUIET + 2 * actions.EVERY  # a sweep has gaps


def test_where_nothing_runs_the_view_ends_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hurried: Callable[..., list[int]]
) -> None:
    naps = hurried(lambda _: None)
    finish(cell_at(tmp_path, 0))
    assert (watched(tmp_path), naps) == (0, [])
    (cell_at(tmp_path, 1) / ERROR).write_text("out of memory")
    assert (watched(tmp_path), naps) == (1, [])
    assert "imp seed 1: failed, out of memory" in capsys.readouterr().out


def test_one_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str], hurried: Callable[..., list[int]]) -> None:
    naps = hurried(lambda _: None)
    folder = cell_at(tmp_path)
    with leases.hold(folder):
        assert watched("--once", tmp_path) == 0
    assert naps == []
    assert capsys.readouterr().out == "study-1\n  no round yet, 1 running\n  imp seed 0: running, starts or waits\n"
    (folder / ERROR).write_text("out of memory")
    assert watched("--once", tmp_path) == 0  # as `lottery status`


@pytest.mark.parametrize("width", [20, 40])
def test_one_frame_is_as_wide_as_the_terminal(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm in ("imp,rewind=10it", "imp,rewind=2it", "another"):
        folder = tmp_path / "a-study-with-a-long-name" / arm / "seed0"
        folder.mkdir(parents=True)
        (folder / NAME).write_text("".join(f"{json.dumps(measured(index, 0.9))}\n" for index in range(3)))
    monkeypatch.setenv("COLUMNS", str(width))
    assert watched("--once", tmp_path) == 0
    piped = capsys.readouterr().out
    assert max(map(len, piped.splitlines())) > 40
    assert piped.index("o imp,rewind=2it") < piped.index("x imp,rewind=10it") < piped.index("+ another")
    assert piped.index("imp,rewind=2it seed 0") < piped.index("imp,rewind=10it seed 0")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert watched("--once", tmp_path) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) == width


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(status.Refused, match="no such folder"):
        watched(tmp_path / "nowhere")
    with pytest.raises(status.Refused, match=r"no cell under .*: cells are folders like STUDY/ARM/seed0"):
        watched("--once", tmp_path)


# in a terminal

QUICKLY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in a shell's background
from lottery.commands import main, report
from lottery.commands.watch import actions
actions.EVERY, actions.QUIET = 0.1, 0.5
sys.argv = ["lottery", "watch", *sys.argv[1:]]
try:
    main.main()
finally:
    heavy = {"torch", "pandas", "numpy", "matplotlib", "hydra", "wandb", "scipy"} & sys.modules.keys()
    assert not heavy, heavy
"""


class Terminal:
    """The command in a terminal of 80 columns."""

    def __init__(self, *words: object) -> None:
        self.end, other = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = {**environment(), "TERM": "xterm"}
        command = [sys.executable, "-c", QUICKLY, *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=env, start_new_session=True
        )
        os.close(other)
        self.text = ""

    def until(self, found: Callable[[str], bool], seconds: float = 200) -> str:
        ends = time.monotonic() + seconds
        while not found(self.text) and time.monotonic() < ends:
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.end, 65536).decode()
                except OSError:  # the other end has closed
                    break
        return self.text


@pytest.fixture
def terminal() -> Any:
    opened = list[Terminal]()
    yield lambda *words: (opened.append(Terminal(*words)), opened[-1])[1]
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        os.close(one.end)


def test_a_terminal_shows_rounds_as_they_come_and_is_left_in_order(tmp_path: Path, terminal: Any) -> None:
    folder = cell_at(tmp_path)
    with leases.hold(folder):
        pulse(folder)
        shown = terminal(tmp_path)
        assert "0 of 5 rounds, 1 running" in shown.until(lambda text: "0 of 5" in text)
        (folder / NAME).write_text(json.dumps(measured(0, 0.9)) + "\n")
        assert "1 of 5 rounds, 1 running" in shown.until(lambda text: "1 of 5" in text)
    finish(folder)
    text = shown.until(lambda text: "\x1b[?25h" in text)
    assert shown.process.wait(100) == 0
    assert "5 of 5 rounds, 1 finished" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_ctrl_c_ends_the_view_alone(tmp_path: Path, terminal: Any) -> None:
    folder = cell_at(tmp_path)
    with leases.hold(folder):
        shown = terminal(tmp_path)
        shown.until(lambda text: "1 running" in text)
        shown.process.send_signal(signal.SIGINT)
        text = shown.until(lambda text: "goes on" in text)
        assert shown.process.wait(100) == 130
        assert "no longer watched; what runs goes on" in text
        assert "Traceback" not in text
        assert "\x1b[?25h" in text
        assert show([tmp_path]).startswith("1 running")
