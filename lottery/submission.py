"""Submission: a sweep's cells as jobs of Slurm's, one for each, and what the command does while they run."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from lottery import attempts, preemption, slurm
from lottery.errors import Refused
from lottery.names import Job

_POLL_SECONDS = 5.0
_NO_PARAMETERS = ("_target_", "submitit_folder", "max_num_timeout")


def goes_to_slurm(launcher: Mapping[str, Any]) -> bool:
    """Whether a launcher of Hydra's hands cells to Slurm."""
    return str(launcher.get("_target_")).endswith(".SlurmLauncher")


def tried_here(job: Job) -> Job:
    """A cell as a login node can try it: without the GPU that only its job will have."""
    import torch

    if torch.cuda.is_available():
        return job
    hardware, numerics = dict(job.config["hardware"]), dict(job.config["numerics"])
    if hardware.get("accelerator") == "gpu":
        hardware["accelerator"] = "cpu"
        if numerics.get("precision") == "16-mixed":
            numerics["precision"] = "bf16-mixed"
    return replace(job, config={**job.config, "hardware": hardware, "numerics": numerics})


def submit(cells: Sequence[Job], launcher: Mapping[str, Any]) -> None:
    """Submits those cells that no job in the queue is for. Raises Refused with what Slurm has against it."""
    if launcher["nodes"] != 1:
        raise Refused(f"hydra.launcher.nodes={launcher['nodes']}: a cell trains on one node")
    try:
        queue = slurm.queue()
        new = [job for job in cells if attempts.read(job.folder).get("job") not in queue]
        numbers = _submitted([list(job.command) for job in new], launcher) if new else []
    except slurm.Unavailable as reason:
        raise Refused(f"hydra/launcher=slurm: {reason}") from reason
    for job, number in zip(new, numbers, strict=True):
        attempts.submitted(job.folder, number)
    if len(new) < len(cells):
        print(f"{len(cells) - len(new)} cells have a job in the queue already")
    if new:
        first, last = numbers[0], numbers[-1]
        print(f"{len(new)} cells submitted as job {first}{f' to {last}' if len(new) > 1 else ''}")
    studies = " ".join(dict.fromkeys(str(job.folder.parent.parent) for job in cells))
    print(f"`lottery status {studies}` shows them; ending this command leaves them alone", flush=True)


def _submitted(commands: Sequence[list[str]], launcher: Mapping[str, Any]) -> list[str]:
    """Hands each command to a job of its own, those of several to one array; returns their numbers."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit.core.utils import FailedJobError

    # a key that was given wins over Slurm's own variables, which sbatch would otherwise prefer
    for key in ("account", "partition", "qos"):
        if launcher.get(key):
            os.environ.pop(f"SBATCH_{key.upper()}", None)
    executor = submitit.AutoExecutor(
        launcher["submitit_folder"], cluster="slurm", slurm_max_num_timeout=launcher["max_num_timeout"]
    )
    shared = {field.name for field in fields(BaseQueueConf)}
    given = {key: value for key, value in launcher.items() if key not in _NO_PARAMETERS}
    last = f"{shlex.quote(sys.executable)} -m lottery.preemption $?"
    given["setup"] = [*(given["setup"] or ()), f"trap {shlex.quote(last)} EXIT"]
    executor.update_parameters(**{key if key in shared else f"slurm_{key}": value for key, value in given.items()})
    try:
        jobs = executor.map_array(attempt, commands)
    except FailedJobError as error:
        raise slurm.Unavailable(f"Slurm refuses: {slurm.sentence(str(error))}") from error
    return [job.job_id for job in jobs]


def attempt(command: Sequence[str]) -> None:
    """What a job does: plays one cell, whatever is already there. Ends with code 1 if that fails."""
    task = slurm.here()
    assert task
    preemption.guard(task)  # before the seconds that imports take
    from lottery.compose import jobs
    from lottery.launch import launch

    launch(list(command))
    [job] = jobs(list(command))
    if task.rank == 0 and not job.finished():
        sys.exit(1)


def wait(cells: Sequence[Job]) -> None:
    """Waits until none of the cells has a job in the queue, with a line whenever something changes."""
    numbers = [str(attempts.read(job.folder).get("job")) for job in cells]
    started, said = time.monotonic(), ""
    while states := _states(numbers):
        if states != said:
            minutes, seconds = divmod(round(time.monotonic() - started), 60)
            print(f"{minutes:3}:{seconds:02}  {states}", flush=True)
        said = states
        time.sleep(_POLL_SECONDS)


def _states(numbers: Sequence[str]) -> str:
    """How many of these jobs are in which state, as a sentence; empty if none is left in the queue."""
    try:
        queue = slurm.queue()
    except slurm.Unavailable as reason:  # it may be restarting
        return str(reason)
    states = Counter(queue[number].state.lower() for number in numbers if number in queue)
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
