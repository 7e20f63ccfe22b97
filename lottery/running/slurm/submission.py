"""Submission: hands a sweep's cells to Slurm, one job each, and waits for them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

from lottery.config.cell_config import CellConfig
from lottery.foundations.errors import Refused, describe, nearby
from lottery.foundations.job import Task, here
from lottery.running.slurm import attempts, preemption
from lottery.running.slurm import queue as slurm
from lottery.store.folder import ERROR, leave_error

_POLL_SECONDS, _MOST_POLL_SECONDS = 5.0, 30.0  # between two polls of the queue: at first, and after some minutes
_OURS = {
    f"SBATCH_{name}"
    for name in ("ARRAY_INX", "ERROR", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TIMELIMIT", "WAIT")
}
_ABOUT = {
    "generic resource": "gpus_per_node", "account": "account", "qos": "qos", "partition": "partition",
    "time limit": "timeout_min", "memory": "mem_gb",
}  # fmt: skip
"""The key that an error of Slurm is about: that of the first of these phrases which occurs in it."""
_NO_PARAMETERS = ("_target_", "submitit_folder", "max_num_timeout")


def goes_to_slurm(launcher: Mapping[str, Any]) -> bool:
    """Whether this launcher of Hydra submits cells to Slurm."""
    return str(launcher.get("_target_")).endswith(".SlurmLauncher")


def tried_here(job: CellConfig) -> CellConfig:
    """A cell as it is checked on a login node: on the CPU, because only its job will have GPUs."""
    hardware, numerics = {**job.config["hardware"], "accelerator": "cpu"}, dict(job.config["numerics"])
    if numerics.get("precision") == "16-mixed":  # for GPUs only
        numerics["precision"] = "bf16-mixed"
    return replace(job, config={**job.config, "hardware": hardware, "numerics": numerics})


def submit(cells: Sequence[CellConfig], launcher: Mapping[str, Any]) -> None:
    """Submits the cells that have no job in the queue. Raises Refused with Slurm's reason if it rejects them."""
    _check(cells, launcher)
    try:
        queue = slurm.queue()
        new = [job for job in cells if attempts.read(job.folder).get("job") not in queue]
        with _undisturbed():  # the job ids must be written down once Slurm has accepted
            numbers = _submitted(new, launcher) if new else []
            for job, number in zip(new, numbers, strict=True):
                attempts.submitted(job.folder, number)
    except slurm.Unavailable as reason:
        raise Refused(f"hydra/launcher: {reason}") from reason
    if len(new) < len(cells):
        print(f"{_cells(len(cells) - len(new))} in the queue already, as submitted before")
    if new:
        first, last = numbers[0], numbers[-1]
        print(f"{_cells(len(new))} submitted as job {first}{f' to {last}' if len(new) > 1 else ''}")
    studies = shlex.join(dict.fromkeys(str(job.folder.parent.parent) for job in cells))
    print(f"`lottery status {studies}` shows them; ending this command leaves them alone", flush=True)


def _check(cells: Sequence[CellConfig], launcher: Mapping[str, Any]) -> None:
    """Raises Refused for settings that Slurm would accept but that no cell can use."""
    minutes, delay = launcher["timeout_min"], launcher["signal_delay_s"]
    if launcher["nodes"] != 1:
        raise Refused(f"hydra.launcher.nodes={launcher['nodes']}: a cell trains on one node")
    for key, least in (("signal_delay_s", 0), ("array_parallelism", 1)):
        if launcher[key] < least:
            raise Refused(f"hydra.launcher.{key}={launcher[key]}: must be {least} or more")
    if minutes * 60 < delay + 30:  # Slurm may be early
        raise Refused(
            f"hydra.launcher.timeout_min={minutes}: leaves no time to train before the signal that comes "
            f"hydra.launcher.signal_delay_s={delay} seconds earlier"
        )
    if "%" in str(launcher["submitit_folder"]).removesuffix("%j"):
        raise Refused(f"out={cells[0].config['out']}: Slurm reads a % in the path of a log as one of its own names")
    if (tasks := launcher["tasks_per_node"]) != (devices := cells[0].config["hardware"]["devices"]):
        raise Refused(f"hydra.launcher.tasks_per_node={tasks}: must be as many as hardware.devices={devices}")
    for group, key in (("numerics", "threads"), ("hardware", "devices")):
        if len({job.config[group][key] for job in cells}) > 1:
            raise Refused(f"{group}.{key}: must be the same for all cells of an array of jobs; give a command for each")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and their like wait meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submitted(cells: Sequence[CellConfig], launcher: Mapping[str, Any]) -> list[str]:
    """Submits each cell as an element of a job array; returns the job ids."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit.core.utils import FailedJobError

    # sbatch prefers its environment variables to what a script says, but a given key must win; and if this command
    # itself runs in a job, the new jobs must not inherit that job's variables
    gone = {f"SBATCH_{key.upper()}" for key in ("account", "partition", "qos") if launcher.get(key)} | _OURS
    gone |= {name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"}
    for name in gone:
        os.environ.pop(name, None)
    executor = submitit.AutoExecutor(
        launcher["submitit_folder"], cluster="slurm", slurm_max_num_timeout=launcher["max_num_timeout"]
    )
    shared = {field.name for field in fields(BaseQueueConf)}
    given = {key: value for key, value in launcher.items() if key not in _NO_PARAMETERS}
    given["setup"] = [*(given["setup"] or ()), *_around()]
    executor.update_parameters(**{key if key in shared else f"slurm_{key}": value for key, value in given.items()})
    try:
        with redirect_stderr(StringIO()):  # what sbatch says is in the error
            folders = [job.folder.absolute() for job in cells]
            jobs = executor.map_array(start, [list(job.command) for job in cells], [str(job) for job in cells], folders)
    except FailedJobError as error:
        raise Refused(_against(slurm.sentence(str(error)), launcher)) from error
    return [job.job_id for job in jobs]


def _against(said: str, launcher: Mapping[str, Any]) -> str:
    """The reason why sbatch rejected a job, after the setting that it is about."""
    key = next((key for word, key in _ABOUT.items() if word in said.lower()), None)
    if key is None:
        return f"hydra/launcher: Slurm refuses: {said}"
    value, site = launcher.get(key), f"SBATCH_{key.upper()}"
    where = f"hydra.launcher.{key}={value}" if value is not None else f"{site}={os.environ.get(site, '')}"
    known = f"; {nearby(str(value or os.environ.get(site, '')), slurm.partitions())}" if key == "partition" else ""
    return f"{where}: Slurm refuses: {said}{known}"


def _around() -> list[str]:
    """Lines of the batch script that come before its tasks are started."""
    last = f"{shlex.quote(sys.executable)} -m lottery.running.slurm.preemption $?"
    return [
        "export SLURM_KILL_BAD_EXIT=1",  # one task's death ends the others
        "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",  # newer versions do not pass it on
        f"trap {shlex.quote(last)} EXIT",
    ]


def start(command: Sequence[str], asked: str, folder: Path) -> None:
    """The entry point of a job, at each of its starts: runs or resumes one cell. Exits with code 1 if that fails."""
    task = here()
    assert task
    preemption.guard(task)  # first of all, because the imports below take seconds
    first = task.rank == 0
    doubled = first and _another(asked, folder, task)
    try:
        if first and not doubled:
            attempts.Attempts(folder, task).begin()
            (folder / ERROR).unlink(missing_ok=True)
        from lottery.config.compose import cell_configs
        from lottery.running.slurm import tasks

        if doubled:
            tasks.dismiss(task, folder)
            return
        [job] = cell_configs(list(command))
        if str(job) != asked:
            raise Refused(f"the job was submitted for {asked}, but the configuration or the code now makes that {job}")
        from lottery.running.launch import launch
    except Exception as error:
        if first:
            leave_error(folder, describe(error), traceback.format_exc())
        sys.exit(describe(error))
    launch(list(command))
    preemption.disregard()
    if first and not job.finished():
        sys.exit(1)


def _another(cell: str, folder: Path, task: Task) -> bool:
    """Whether a later job in the queue is for the same cell, because a submission was interrupted and repeated."""
    named = attempts.read(folder).get("job")
    try:
        doubled = named not in (None, task.job) and named in slurm.queue()
    except slurm.Unavailable:
        doubled = False
    if doubled:
        print(f"job {named} is for {cell} too; this one ends")
    return doubled


def wait(cells: Sequence[CellConfig]) -> None:
    """Waits until none of the cells has a job in the queue, with a line whenever something changes."""
    started, said, finished = time.monotonic(), "", set[Path]()
    try:
        while True:
            now, left = _states(cells, finished)
            if now != said:
                minutes, seconds = divmod(round(time.monotonic() - started), 60)
                print(f"{minutes:3}:{seconds:02}  {now}", flush=True)
            if not left:
                return
            said = now
            time.sleep(min(_POLL_SECONDS + (time.monotonic() - started) / 20, _MOST_POLL_SECONDS))
    except KeyboardInterrupt as stop:
        raise type(stop)("the jobs go on, and the same command waits for them again") from None


def _states(cells: Sequence[CellConfig], finished: set[Path]) -> tuple[str, bool]:
    """How many cells are in which state, and whether any has a job in the queue. Side effect: extends `finished`."""
    numbers = [(str(attempts.read(job.folder).get("job")), job) for job in cells]
    try:
        queue = slurm.queue()
    except slurm.Unavailable as reason:  # it may be restarting
        return str(reason), True
    over = [job for number, job in numbers if number not in queue]
    finished |= {job.folder for job in over if job.folder in finished or job.finished()}
    states = Counter(
        _shown(queue[number]) if number in queue else "finished" if job.folder in finished else "ended unfinished"
        for number, job in numbers
    )
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return said, any(number in queue for number, _ in numbers)


def _shown(queued: slurm.Queued) -> str:
    """The state of a job, and the reason why it waits if that is not just its place in the queue."""
    usual = queued.reason in ("", "None", "Priority", "Resources", "BeginTime") or queued.state != "PENDING"
    return queued.state.lower() + ("" if usual else f" ({queued.reason})")


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"
