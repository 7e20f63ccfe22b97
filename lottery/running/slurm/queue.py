"""Slurm's commands: what is in the queue, and queueing a job again."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

from lottery.foundations.errors import Said

RUNNING = ("RUNNING", "SIGNALING")
"""States of a running job; it is in the second while a signal is being delivered."""
_PATIENCE = 10.0  # seconds that a controller may take to answer


class Unavailable(Said):
    """Slurm is not installed, does not answer, or refuses; the message is one sentence."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue."""

    state: str
    """Slurm's name for it: `PENDING`, `RUNNING`, `COMPLETING`, ..."""
    reason: str
    """Why it waits, in Slurm's words."""
    node: str


def queue() -> dict[str, Queued]:
    """The user's own jobs that wait or run, by job id. Raises Unavailable."""
    lines = _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|%N").splitlines()
    rows = (line.strip().split("|", 3) for line in lines if line.count("|") >= 3)
    return {job: Queued(state, reason, node) for job, state, reason, node in rows}


def state(job: str) -> tuple[str, int]:
    """A job's state, such as `RUNNING`, and its restarts; `("", 0)` if it is gone. Raises Unavailable."""
    try:
        said = _ask("squeue", "--noheader", f"--jobs={job}", "--Format=State:30,RestartCnt:10").split()
    except Unavailable as error:
        if "Invalid job id" in str(error):  # it ended some time ago
            said = []
        else:
            raise
    return (said[0], int(said[1])) if len(said) == 2 and said[1].isdigit() else ("", 0)


def partitions() -> list[str]:
    """The names of all partitions. Raises Unavailable."""
    return sorted(set(_ask("sinfo", "--noheader", "--format=%R").split()))


def requeue(job: str) -> None:
    """Ends a running job and queues it again. Raises Unavailable."""
    _ask("scontrol", "requeue", job)


def _ask(*command: str) -> str:
    name = command[0]
    try:
        # defaults in the user's environment, such as SQUEUE_STATES, would hide jobs
        env = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError as error:
        raise Unavailable(f"there is no Slurm on this machine: {name} is not on the path") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"Slurm does not answer: {name} took more than {_PATIENCE:.0f} s") from error
    if done.returncode:
        raise Unavailable(f"Slurm refuses: {sentence(done.stderr) or f'{name} ended with code {done.returncode}'}")
    return done.stdout


def sentence(said: str) -> str:
    """The error output of a Slurm command as one sentence, without the command's name and without repetitions.

    >>> sentence("sbatch: error: invalid partition specified: nowhere\\nsbatch: error: Batch job submission failed\\n")
    'invalid partition specified: nowhere; Batch job submission failed'
    """
    if "Could not establish a configuration source" in said:
        return "this machine belongs to no cluster (it has no slurm.conf, and SLURM_CONF names none)"
    lines = (re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in said.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))
