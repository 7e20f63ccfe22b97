"""Leases: one process at a time works in a folder, and when it dies another one takes its place.

A folder holds `lease.1`, `lease.2`, ...; the highest number is in force. Taking over from number n means
creating n+1, which `os.link` does atomically, so that one process wins a race. No lease is overwritten or removed
while work is going on, so a process that was wrongly thought dead sees a higher number and stops. On one machine or a
shared file system this relies on two things: `link` fails if the name exists, and a reader never sees half of a written
file. The clock of another machine never decides that a lease is taken over (`held`, which only decides what may be
removed, allows a day for clocks to differ).
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lottery.foundations.errors import Lost
from lottery.store.owners import FIELDS, alive, this_process

_log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
DEAD_AFTER = 60.0  # seconds without a heartbeat, on the watcher's clock, for an owner that can't be looked up
_POLL_SECONDS, _MOST_POLL_SECONDS = 0.2, 3.0  # between two polls: at first, and after a minute

Waiting = Callable[[], AbstractContextManager[Any]]
"""A context that is entered while the work of another process is waited for."""


class Lease:
    """The right to work in a folder; a context manager, with a thread that writes heartbeats.

    `note` is a number that outlives the owner: the next owner reads it as `inherited`.
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
        """Raises Lost if another process has taken over."""
        if _highest(self.folder) != self.number:
            raise Lost(self.folder)

    def glance(self) -> None:
        """As `check`, but cheap enough for every step: it reads a perhaps shared file system once a second at most."""
        if time.monotonic() - self._glanced >= 1:
            self._glanced = time.monotonic()
            self.check()

    def write(self, note: int) -> None:
        """Stores the number that is to outlive this process."""
        self.note = note
        self._write()

    def create(self) -> bool:
        """Creates the lease for this process; False if another process was faster."""
        handle, temporary = tempfile.mkstemp(prefix=".lease", dir=self.folder)
        self._file = handle
        try:
            self._write()
            os.link(temporary, self.path)
        except FileExistsError:
            if os.stat(temporary).st_nlink != 2:  # else the link was made, but a network file system lost the reply
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
            with suppress(OSError):  # best effort: on a full disk the work itself will raise
                self._write()
                if self._file is not None:
                    os.fsync(self._file)  # a network file system may cache it, unseen by other nodes

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            content = {"owner": self._owner, "note": self.note, "beat": self._beat, "released": self._released}
            assert self._file is not None
            try:
                os.pwrite(self._file, json.dumps(content).ljust(600).encode(), 0)
            except OSError as error:  # the error of a full disk names no file
                raise OSError(error.errno, error.strerror, str(self.path)) from error


class Watch:
    """Watches a folder's lease as another process, and remembers when its heartbeat last changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: tuple[int, Any] | None = None
        self._since = time.monotonic()

    def take(self) -> Lease | None:
        """The lease, if there is none, or it was released or its owner is dead; else None."""
        number = _highest(self.folder)
        content = _read(self.folder / f"lease.{number}") if number else None
        if number and not self._over(number, content):
            return None
        lease = Lease(self.folder, number + 1, inherited=content["note"] if content else 0)
        return lease if lease.create() else None

    def holder(self) -> str:
        """Who owns the lease, in words for a message."""
        content = _read(self.folder / f"lease.{_highest(self.folder)}")
        return f"process {content['owner']['pid']} on {content['owner']['host']}" if content else "another process"

    def until(self, look: Callable[[], Any]) -> Any:
        """Polls until `look` returns something; the pauses grow, so that many waiting processes cause little load."""
        pause = _POLL_SECONDS
        while (found := look()) is None:
            time.sleep(pause)
            pause = min(1.1 * pause, _MOST_POLL_SECONDS)
        return found

    def _over(self, number: int, content: dict[str, Any] | None) -> bool:
        beat = (number, content["beat"] if content else None)
        if beat != self._seen:
            self._seen, self._since = beat, time.monotonic()
        if content is None:  # unreadable, perhaps half written: its owner may write it again
            return time.monotonic() - self._since > DEAD_AFTER
        if content["released"]:
            return True
        if (known := alive(content["owner"])) is not None:
            return not known
        return time.monotonic() - self._since > DEAD_AFTER


def hold(folder: Path, waiting: Waiting = nullcontext) -> Lease:
    """The folder's lease; says so and waits while a living process holds it."""
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
    """Whether a living process of this machine holds the lease, or one elsewhere with a heartbeat within a day."""
    if not (number := _highest(folder)):
        return False
    path = folder / f"lease.{number}"
    content = _read(path)
    with suppress(FileNotFoundError):  # removed just now, since its work has ended
        elsewhere = content is not None and content["owner"]["place"] != this_process()["place"]
        if elsewhere and time.time() - path.stat().st_mtime > 86400:
            return False
    return not Watch(folder)._over(number, content)


def _highest(folder: Path) -> int:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # another process renamed or removed the folder: whoever worked there has lost it
        return 0
    found = (re.fullmatch(r"lease\.(\d+)", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
        whole = content.keys() >= {"note", "beat", "released"} and content["owner"].keys() >= FIELDS
        return content if whole else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
