"""Preemption: a Slurm job that is told to end queues itself again, and resumes from its last checkpoint.

Nothing is saved on a signal, so that any way to die costs the same: at most the time between two checkpoints. Thus
TERM, USR1 and USR2 all mean the same, and one handler answers them.
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
MOST_STARTS = 100  # of a job whose tasks are killed by signals
_TRIES, _PAUSE_SECONDS = 3, 5.0


def guard(task: Task) -> None:
    """Installs a handler for TERM, USR1 and USR2 that queues the job again and ends this process.

    Call it before training, so that Lightning does not install its own.
    """
    owner = os.getpid()

    def answer(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a DataLoader's worker, which inherited this handler by fork
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        try:
            _say(f"{signal.Signals(number).name}: {_requeued(task)}")
            sys.stdout.flush()
        finally:
            os._exit(128 + number)  # an exception might be caught; code 0 would end the job for good

    for number in SIGNALS:
        signal.signal(number, answer if task.rank == 0 else signal.SIG_IGN)  # the other ranks end with the first


def disregard() -> None:
    """Ignores the three signals, because the work is done and the job need not be queued again."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def after(code: int, task: Task) -> str:
    """Queues the job again if a signal, such as 9, killed a task; returns what the batch script is to print.

    Neither Slurm nor the task does so after kill -9, or when memory ran out.
    """
    if code <= 128:
        return ""
    if task.restarts + 1 >= MOST_STARTS:
        return f"job {task.job} was started {task.restarts + 1} times; it is not queued again"
    return f"ended with code {code}: {_requeued(task)}"


def _requeued(task: Task) -> str:
    """Queues a running job again; one that is being cancelled, or was queued again already, is left alone."""
    job = task.job
    for tries_left in reversed(range(_TRIES)):
        try:
            state, restarts = slurm.state(job)
            if state not in slurm.RUNNING or restarts != task.restarts:
                return f"Slurm itself has ended this start of job {job}; nothing is lost"
            slurm.requeue(job)
            break
        except slurm.Unavailable as reason:  # the controller may be busy
            if not tries_left:
                return f"job {job} can't be queued again ({reason}); nothing is lost: the same command goes on"
            time.sleep(_PAUSE_SECONDS)
    return f"job {job} is queued again and will go on from its last checkpoint"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":  # python -m lottery.running.slurm.preemption CODE, in a batch script
    if (task := here()) and (said := after(int(sys.argv[1]), task)):
        _say(said)
