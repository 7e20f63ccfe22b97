"""The owner of a lease: which process it is, and whether it is still alive."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lottery.foundations.job import here

FIELDS = {"host", "place", "pid", "started"}
"""what every owner has; a lease of an older version has no `job`"""


def this_process() -> dict[str, Any]:
    """This process as an owner.

    `host` is for people. `place` (boot and pid namespace), `pid` and `started` identify a process even after its
    number was given to another. A Slurm job and its number of restarts order the starts of that job.
    """
    task = here()
    return {
        "host": socket.gethostname(),
        "place": _place(),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "job": [task.job, task.restarts] if task else None,
    }


def alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether an owner still runs; None where that can't be looked up, because it is a process of another place."""
    us = this_process()
    if us["job"] and owner.get("job") and owner["job"][0] == us["job"][0] and owner["job"][1] < us["job"][1]:
        return False  # Slurm gave its node up; should it still run, it sees our lease and stops
    if owner["place"] == us["place"] and owner["started"] is not None:
        return start_time(owner["pid"]) == owner["started"]
    return None


def start_time(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks since boot; None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between opening and reading
        return None


def _place() -> list[str]:
    if not os.path.exists("/proc/self/ns/pid"):
        return [socket.gethostname()]
    return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
