"""The Slurm job that this process belongs to, read from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One of the processes that Slurm started for a job, called a task by Slurm."""

    job: str
    """The job id: `12`, or `12_3` for an element of an array, since a bare number could mean the whole array."""
    restarts: int
    """How often the job was started before."""
    rank: int
    count: int
    """The number of tasks of the job."""
    step: bool = True
    """Whether `srun` started this process; a batch script may run other commands than ours."""


def here() -> Task | None:
    """The task that this process is or descends from; None outside Slurm."""
    if not (number := os.environ.get("SLURM_JOB_ID")):
        return None
    array, element = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    # a batch script has a rank too, and the number of tasks that `srun` would start, but is no such task
    step = "SLURM_STEP_NUM_TASKS" in os.environ
    return Task(
        job=f"{array}_{element}" if array and element else number,
        restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        rank=int(os.environ.get("SLURM_PROCID", 0)) if step else 0,
        count=int(os.environ["SLURM_STEP_NUM_TASKS"]) if step else 1,
        step=step,
    )
