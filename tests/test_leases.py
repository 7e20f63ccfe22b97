"""Leases: one live process at a time, and takeover from a dead one."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from lottery.foundations.errors import Lost
from lottery.store import leases
from lottery.store.leases import Watch, clear, held, hold
from lottery.store.owners import start_time, this_process

ELSEWHERE = {"host": "elsewhere", "place": ["another boot", "pid:[1]"], "pid": 1, "started": "1"}


class Clock:
    """The watcher's clock, which only advances when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


def leave(folder: Path, number: int = 1, note: int = 0, beat: int = 1, released: bool = False, **owner: object) -> Path:
    """The lease that some process left behind."""
    path = folder / f"lease.{number}"
    content = {"owner": {**this_process(), **owner}, "note": note, "beat": beat, "released": released}
    path.write_text(json.dumps(content))
    return path


def dead_pid() -> int:
    process = multiprocessing.get_context("fork").Process(target=os.getpid)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


# several processes


def contend(folder: Path, gate: Path, times: int, results: multiprocessing.Queue) -> None:
    """Takes and releases the lease, and counts how often another process held it at the same time."""
    leases._POLL_SECONDS = 0.001
    overlaps = 0
    for _ in range(times):
        with hold(folder) as lease:
            try:
                os.close(os.open(gate, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                overlaps += 1
            time.sleep(0.001)
            lease.write(lease.inherited + 1)
            lease.check()
            gate.unlink(missing_ok=True)
    results.put(overlaps)


def test_eight_racing_processes_hold_it_one_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    folder, times, many = tmp_path / "work", 12, 8
    folder.mkdir()
    racers = [context.Process(target=contend, args=(folder, tmp_path / "gate", times, results)) for _ in range(many)]
    for racer in racers:
        racer.start()
    overlaps = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert overlaps == [0] * many
    # every holder inherited what the one before had written, and took the next number
    with hold(folder) as last:
        assert (last.inherited, last.number) == (times * many, times * many + 1)
    assert not list(folder.glob(".lease*"))


def test_of_many_threads_one_takes_a_free_lease(tmp_path: Path) -> None:
    barrier, taken = threading.Barrier(16), []

    def race() -> None:
        watch = Watch(tmp_path)
        barrier.wait()
        taken.append(watch.take())

    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [lease for lease in taken if lease]
    assert winner.number == 1
    with winner:
        assert held(tmp_path)
    assert not held(tmp_path)


def hold_for_ever(folder: Path, note: int, ready: multiprocessing.Queue) -> None:
    lease = Watch(folder).take()
    assert lease
    lease.write(note)
    ready.put(True)
    time.sleep(60)


def test_a_killed_process_is_followed_at_once_and_its_note_inherited(tmp_path: Path, clock: Clock) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    holder = context.Process(target=hold_for_ever, args=(tmp_path, 17, ready))
    holder.start()
    ready.get(timeout=60)
    watch = Watch(tmp_path)
    assert watch.take() is None
    assert watch.holder().startswith(f"process {holder.pid} on ")
    holder.kill()
    os.waitid(os.P_PID, holder.pid or 0, os.WEXITED | os.WNOWAIT)  # a zombie still has its pid and start time
    lease = watch.take()
    assert lease
    assert (lease.inherited, lease.note, lease.number) == (17, 17, 2)
    with lease:
        pass
    holder.join()


# whose process is alive


def test_a_living_owner_of_this_machine_is_never_followed(tmp_path: Path, clock: Clock) -> None:
    leave(tmp_path)
    watch = Watch(tmp_path)
    for _ in range(3):
        assert watch.take() is None
        clock.sleep(10 * leases.DEAD_AFTER)


def test_a_dead_pid_is_followed_at_once(tmp_path: Path, clock: Clock) -> None:
    leave(tmp_path, pid=dead_pid(), note=5)
    lease = Watch(tmp_path).take()
    assert lease
    assert lease.inherited == 5
    with lease:
        pass


def test_a_pid_that_began_at_another_time_is_another_process(tmp_path: Path, clock: Clock) -> None:
    leave(tmp_path, pid=os.getpid(), started="1")
    lease = Watch(tmp_path).take()
    assert lease
    with lease:
        pass


def test_a_process_that_vanishes_while_it_is_looked_up_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(path: Path) -> str:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(Path, "read_text", vanish)
    assert start_time(1) is None


def test_an_owner_elsewhere_is_followed_when_its_beat_stops(tmp_path: Path, clock: Clock) -> None:
    path = leave(tmp_path, **ELSEWHERE)
    watch = Watch(tmp_path)
    assert watch.take() is None
    for beat in range(2, 6):  # it lives as long as it beats, however long that is
        clock.sleep(leases.DEAD_AFTER)
        assert watch.take() is None
        leave(tmp_path, beat=beat, note=beat, **ELSEWHERE)
        assert watch.take() is None
    os.utime(path, (0, 0))  # what the file's own time says is another machine's clock
    clock.sleep(leases.DEAD_AFTER)
    assert watch.take() is None
    clock.sleep(0.01)
    lease = watch.take()
    assert lease
    assert lease.inherited == 5
    with lease:
        pass


def test_another_boot_of_this_machine_is_elsewhere(tmp_path: Path, clock: Clock) -> None:
    leave(tmp_path, place=["another boot", this_process()["place"][-1]])
    watch = Watch(tmp_path)
    assert watch.take() is None
    clock.sleep(leases.DEAD_AFTER + 1)
    lease = watch.take()
    assert lease
    with lease:
        pass


def test_a_new_watcher_waits_its_own_time(tmp_path: Path, clock: Clock) -> None:
    leave(tmp_path, **ELSEWHERE)
    clock.sleep(10 * leases.DEAD_AFTER)
    assert Watch(tmp_path).take() is None


@pytest.mark.parametrize("content", [b"", b'{"owner": {"ho', b"\xff\x00", b"[]", b"{}", b"null"])
def test_a_torn_lease_blocks_no_longer_than_a_silent_owner(content: bytes, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "lease.3").write_bytes(content)
    watch = Watch(tmp_path)
    assert watch.take() is None
    assert watch.holder() == "another process"
    clock.sleep(leases.DEAD_AFTER)
    assert watch.take() is None
    clock.sleep(0.01)
    lease = watch.take()
    assert lease
    assert (lease.number, lease.inherited) == (4, 0)
    with lease:
        pass


def test_any_cut_of_a_lease_blocks_like_a_torn_one(tmp_path: Path, clock: Clock) -> None:
    path = leave(tmp_path, **ELSEWHERE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert Watch(tmp_path).take() is None
        assert held(tmp_path)


# being the owner


def test_a_lease_beats_while_its_owner_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.001)
    with hold(tmp_path) as lease:
        seen = set()
        while len(seen) < 5:  # ends only if it beats
            if content := leases._read(lease.path):  # None if read while it is written
                seen.add(content["beat"])
    ended = json.loads(lease.path.read_text())
    assert ended["released"]
    assert json.loads(lease.path.read_text()) == ended


def test_an_owner_that_was_thought_dead_notices(tmp_path: Path) -> None:
    with hold(tmp_path) as old:
        old.check()
        leave(tmp_path, number=2, **ELSEWHERE)
        with pytest.raises(Lost, match=str(tmp_path)):
            old.check()
        old.write(99)  # what it still writes is its own file
        assert json.loads((tmp_path / "lease.2").read_text())["note"] == 0


def test_the_highest_number_counts_also_beyond_nine(tmp_path: Path) -> None:
    leave(tmp_path, number=9, note=9, released=True)
    leave(tmp_path, number=10, note=10, released=True)
    with hold(tmp_path) as lease:
        assert (lease.number, lease.inherited) == (11, 10)


def test_a_released_lease_is_free_and_its_note_inherited(tmp_path: Path) -> None:
    with hold(tmp_path / "new") as first:
        first.write(3)
    with hold(tmp_path / "new") as second:
        assert second.inherited == 3
        second.write(second.note + 4)
    assert json.loads(second.path.read_text())["note"] == 7
    clear(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_an_error_inside_releases_the_lease(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    assert not held(tmp_path)


def test_waiting_says_for_whom_once(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    leave(tmp_path, **ELSEWHERE)
    with hold(tmp_path):
        pass
    assert caplog.messages == [f"{tmp_path}: waiting for process 1 on elsewhere, which works there"]


def test_a_later_start_of_the_same_job_takes_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with hold(tmp_path) as first:  # its node was given up, yet it lives and beats
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        second = Watch(tmp_path).take()
        assert second
        with second:
            with pytest.raises(Lost) as lost:
                first.check()
            assert lost.value.folder == tmp_path
            second.check()


@pytest.mark.parametrize(("job", "restarts"), [("7", "0"), ("7", "1"), ("8", "2"), ("", "")])
def test_nobody_else_does(job: str, restarts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with hold(tmp_path):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert Watch(tmp_path).take() is None


def test_a_link_whose_answer_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def asked_twice(*names: object) -> None:  # as over a network: the first answer never came
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", asked_twice)
    with hold(tmp_path) as lease:
        lease.check()
        assert Watch(tmp_path).take() is None
