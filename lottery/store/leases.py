"""Leases: one process at a time does a piece of work, and a dead one's place is taken over.

A folder holds `lease.1`, `lease.2`, ...; the highest number is in force. Taking over from number n means
creating n+1, which `os.link` lets only one process do. Nothing is ever renamed over or removed while work
is going on, so a process that was thought dead sees a higher number and stops. What this relies on, on one
machine or a shared file system: `link` fails if the name exists; a reader sees a written file whole. No lease is
taken over by the clock of another machine (`held`, which only decides what may be cleared away, allows a day for it).
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lottery.foundations.errors import Lost
from lottery.foundations.job import here

_log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
DEAD_AFTER = 60.0  # seconds without a beat, on the watcher's own clock, for owners whose process can't be looked up
_POLL_SECONDS, _MOST_POLL_SECONDS = 0.2, 3.0  # between two looks: at first, and after a minute
_OWNER = {"host", "place", "pid", "started"}


Waiting = Callable[[], AbstractContextManager[Any]]
"""entered while somebody else's work has to be waited for"""


def this_process() -> dict[str, Any]:
    """Who this process is: host for people; boot, pid namespace, pid and start time for telling life from death.

    A job of Slurm's and its number of restarts tell which of two attempts at it Slurm believes in: the later one.
    """
    task = here()
    return {
        "host": socket.gethostname(),
        "place": [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
        if os.path.exists("/proc/self/ns/pid")
        else [socket.gethostname()],
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "job": [task.job, task.restarts] if task else None,
    }


class Lease:
    """The right to work in a folder; a context manager that keeps it alive with a beat.

    `note` is a number that outlives the owner: the next one reads it as `inherited`.
    """

    def __init__(self, folder: Path, number: int, inherited: int) -> None:
        self.folder, self.number, self.inherited = folder, number, inherited
        self.note = inherited
        self._owner, self._beat, self._released = this_process(), 0, False
        self._glanced = -math.inf
        self._lock, self._done = threading.Lock(), threading.Event()
        self._file: int | None = None
        self._pulse = threading.Thread(target=self._keep_alive, daemon=True)

    @property
    def path(self) -> Path:
        return self.folder / f"lease.{self.number}"

    def check(self) -> None:
        """Raises Lost if somebody has taken over."""
        if _highest(self.folder) != self.number:
            raise Lost(self.folder)

    def glance(self) -> None:
        """As `check`, for those who ask at every step: looks once a second, because a file system may be shared."""
        if time.monotonic() - self._glanced >= 1:
            self._glanced = time.monotonic()
            self.check()

    def write(self, note: int) -> None:
        """Writes a number that is to outlive this process."""
        self.note = note
        self._write()

    def create(self) -> bool:
        """Makes the lease this process's own; False if another was faster."""
        handle, temporary = tempfile.mkstemp(prefix=".lease", dir=self.folder)
        self._file = handle
        try:
            self._write()
            os.link(temporary, self.path)
        except FileExistsError:
            if os.stat(temporary).st_nlink != 2:  # else it was made, and a network file system lost the answer
                os.close(handle)
                return False
        finally:
            os.unlink(temporary)
        self._pulse.start()
        return True

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._pulse.join()
        self._released = True
        self._write()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _keep_alive(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            with suppress(OSError):  # a full disk is for the work itself to stumble over
                self._write()
                if self._file is not None:
                    os.fsync(self._file)  # a network file system would keep it to itself

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            content = {"owner": self._owner, "note": self.note, "beat": self._beat, "released": self._released}
            assert self._file is not None
            try:
                os.pwrite(self._file, json.dumps(content).ljust(600).encode(), 0)
            except OSError as error:  # a full disk names no file
                raise OSError(error.errno, error.strerror, str(self.path)) from error


class Watch:
    """Watches a folder's lease from outside, remembering when its beat last changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[int, Any] | None = None
        self._since = time.monotonic()

    def take(self) -> Lease | None:
        """The lease, if it is free, released or its owner dead; else None."""
        number = _highest(self.folder)
        content = _read(self.folder / f"lease.{number}") if number else None
        if number and not self._over(number, content):
            return None
        lease = Lease(self.folder, number + 1, inherited=content["note"] if content else 0)
        return lease if lease.create() else None

    def holder(self) -> str:
        """The owner, for people."""
        content = _read(self.folder / f"lease.{_highest(self.folder)}")
        return f"process {content['owner']['pid']} on {content['owner']['host']}" if content else "another process"

    def until(self, look: Callable[[], Any]) -> Any:
        """What a look finds at last; the pauses between two grow, so that many who wait long ask little."""
        pause = _POLL_SECONDS
        while (found := look()) is None:
            time.sleep(pause)
            pause = min(1.1 * pause, _MOST_POLL_SECONDS)
        return found

    def _over(self, number: int, content: dict[str, Any] | None) -> bool:
        beat = (number, content["beat"] if content else None)
        if beat != self._seen:
            self._seen, self._since = beat, time.monotonic()
        if content is None:  # torn or unreadable: wait for its owner to write again
            return time.monotonic() - self._since > DEAD_AFTER
        if content["released"]:
            return True
        owner, here = content["owner"], this_process()
        if here["job"] and owner.get("job") and owner["job"][0] == here["job"][0] and owner["job"][1] < here["job"][1]:
            return True  # its node was given up; if it lives on, it will see our number
        if owner["place"] == here["place"] and owner["started"] is not None:
            return _start_time(owner["pid"]) != owner["started"]
        return time.monotonic() - self._since > DEAD_AFTER


def hold(folder: Path, waiting: Waiting = nullcontext) -> Lease:
    """The folder's lease, waiting with a word while somebody living holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    watch = Watch(folder)
    if (lease := watch.take()) is None:
        _log.warning(f"{folder}: waiting for {watch.holder()}, which works there")
        with waiting():
            lease = watch.until(watch.take)
    return lease


def clear(folder: Path) -> None:
    """Removes the leases of finished work."""
    for path in folder.glob("lease.*"):
        path.unlink(missing_ok=True)


def held(folder: Path) -> bool:
    """Whether a living process of this machine holds the folder's lease, or one of another that beat within a day."""
    if not (number := _highest(folder)):
        return False
    path = folder / f"lease.{number}"
    content = _read(path)
    with suppress(FileNotFoundError):  # its work has just ended
        if (
            content
            and content["owner"]["place"] != this_process()["place"]
            and time.time() - path.stat().st_mtime > 86400
        ):
            return False
    return not Watch(folder)._over(number, content)


def _highest(folder: Path) -> int:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # set aside or cleared away by another process: whoever worked there has lost it
        return 0
    found = (re.fullmatch(r"lease\.(\d+)", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
        whole = content.keys() >= {"note", "beat", "released"} and content["owner"].keys() >= _OWNER
        return content if whole else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _start_time(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks since boot; None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between opening and reading
        return None
