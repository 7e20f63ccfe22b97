"""Preemption: a job of Slurm's that is told to end queues itself again, and goes on where its checkpoints are.

A signal saves nothing, so that any death costs the same: at most the time between two checkpoints. What a job is told
by TERM, USR1 and USR2 is therefore all one, and one guard owns the three.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

from lottery.foundations.job import Task, here
from lottery.running.slurm import queue as slurm

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
MOST_STARTS = 100  # of a job that a signal killed last
_TRIES, _PAUSE_SECONDS = 3, 5.0


def guard(task: Task) -> None:
    """Makes this process, the first to act for its job, answer TERM, USR1 and USR2 by queueing the job again.

    To be called before training, so that Lightning leaves the signals alone.
    """
    owner = os.getpid()

    def answer(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a DataLoader's worker, forked with this handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        try:
            _say(f"{signal.Signals(number).name}: {_requeued(task)}")
            sys.stdout.flush()
        finally:
            os._exit(128 + number)  # no exception, which others would catch; no 0, which would end the job for good

    for number in SIGNALS:
        signal.signal(number, answer if task.rank == 0 else signal.SIG_IGN)  # the other ranks end with the first


def disregard() -> None:
    """Lets the three signals pass: the work is done, and would only be looked at once more."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def after(code: int, task: Task) -> str:
    """What a batch script says after its tasks: if a signal killed one, such as 9, the job is queued again.

    Neither Slurm nor the task itself does that after kill -9, or when memory ran out.
    """
    if code <= 128:
        return ""
    if task.restarts + 1 >= MOST_STARTS:
        return f"job {task.job} was started {task.restarts + 1} times; it is not queued again"
    return f"ended with code {code}: {_requeued(task)}"


def _requeued(task: Task) -> str:
    """Queues a job again if it still runs: one that is being cancelled, or was queued again already, must stay so."""
    job = task.job
    for tries_left in reversed(range(_TRIES)):
        try:
            state, restarts = slurm.state(job)
            if state not in slurm.RUNNING or restarts != task.restarts:
                return f"Slurm itself has ended this start of job {job}; nothing is lost"
            slurm.requeue(job)
            break
        except slurm.Unavailable as reason:  # its controller may be busy
            if not tries_left:
                return f"job {job} can't be queued again ({reason}); nothing is lost: the same command goes on"
            time.sleep(_PAUSE_SECONDS)
    return f"job {job} is queued again and will go on from its last checkpoint"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":  # python -m lottery.running.slurm.preemption CODE, in a batch script
    if (task := here()) and (said := after(int(sys.argv[1]), task)):
        _say(said)
