"""A command line from end to end: compose, check, launch, report, and say what is missing.

What needs PyTorch is imported when there is something to train: looking at a finished study takes a second.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery.commands.report import publish
from lottery.config.cell_config import CellConfig
from lottery.config.compose import by_experiment, composed
from lottery.foundations.errors import Refused, describe
from lottery.foundations.job import here
from lottery.running.slurm import attempts, preemption
from lottery.store.folder import ERROR, error_left


def run(arguments: list[str]) -> int:
    """Runs every cell that a command line asks for and is not finished; returns the exit code."""
    mine = here()
    if mine and mine.step:  # else it is for the batch script to say whether its job is to be queued again
        preemption.guard(mine)
        if mine.rank:
            _train(arguments)
            return 0
    cells, launcher = composed(arguments)
    try:
        return _complete(arguments, cells, launcher)
    finally:
        if mine and mine.step:
            preemption.disregard()
        if mine and mine.count > 1:
            from lottery.running.slurm import tasks

            for job in cells:
                tasks.dismiss(mine, job.folder)


def _complete(arguments: list[str], cells: Sequence[CellConfig], launcher: Mapping[str, Any]) -> int:
    still_open = [job for job in cells if not job.finished()]
    if len(still_open) < len(cells):
        print(f"{len(cells) - len(still_open)} of {len(cells)} cells are finished already")
    failure = None
    if still_open:
        from lottery.running.slurm.submission import goes_to_slurm, submit, tried_here, wait

        remote = goes_to_slurm(launcher)
        _check([tried_here(job) for job in still_open] if remote else still_open)
        studies = ", ".join(dict.fromkeys(job.study for job in cells))
        print(f"{studies}: {len(still_open)} cells to run, in {Path(cells[0].config['out'])}/", flush=True)
        for job in still_open:
            if reason := error_left(job.folder):
                print(f"{job.label} seed {job.seed} is tried again; it had failed: {reason}", flush=True)
        if remote:
            submit(still_open, launcher)
            wait(still_open)
        else:
            for job in still_open:  # so that `lottery status` knows of them
                job.folder.mkdir(parents=True, exist_ok=True)
            failure = _train(arguments)
    return _conclude(arguments, cells, failure)


def _train(arguments: list[str]) -> Exception | None:
    """Plays the cells in processes that Hydra's launcher starts; returns what broke that off."""
    from lottery.running.launch import launch

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    failure = None
    for part in by_experiment(arguments):
        try:
            launch(part)
        except Exception as error:
            if wants_traceback:
                raise
            failure = failure or error
    return failure


def _check(cells: Sequence[CellConfig]) -> None:
    """Builds one cell of each kind: what can't work is said before any worker starts."""
    from lottery.config.build import build, build_analyses
    from lottery.config.check import check, note
    from lottery.config.nodes import make
    from lottery.running.tracking import unheeded

    noted: set[str] = set()
    try:
        for job in {(job.study, job.label): job for job in cells}.values():
            cell = build(job)
            check(cell)
            noted |= note(cell, noted)
            build_analyses(job, cell.study.recipe.data)
            make("tracking", job.config["tracking"])
        if any(job.config["tracking"].get("mode") != "disabled" for job in cells) and (said := unheeded(os.environ)):
            print(said, file=sys.stderr)
    except SystemExit as stop:  # from a user's own code: it would end this command with nothing said
        raise Refused(describe(stop)) from stop


def _conclude(arguments: list[str], cells: Sequence[CellConfig], failure: Exception | None) -> int:
    """Reports what is there, and names what failed or is missing."""
    try:
        publish(dict.fromkeys(job.folder.parent.parent for job in cells))
    except Exception as error:  # a full disk, a damaged ledger or a report's own fault must not hide which cells failed
        print(f"no report: {describe(error)}", file=sys.stderr)
        failure = failure or error
    unfinished = [job for job in cells if not job.finished()]
    for job in unfinished:
        number = attempts.read(job.folder).get("job")
        where = f"; what job {number} said is in {Path(job.config['out'])}/slurm/{number}" if number else ""
        print(f"{job}: {error_left(job.folder) or f'did not finish{where}'}", file=sys.stderr)
    if unfinished:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        killed = isinstance(failure, TerminatedWorkerError)
        why = "a worker process was killed, which ends the whole sweep; " if killed else ""
        if failure is not None and not killed and not any((job.folder / ERROR).exists() for job in unfinished):
            why = f"{describe(failure)}; "
        print(f"{len(unfinished)} of {len(cells)} cells are unfinished; {why}the same command goes on", file=sys.stderr)
        return 137 if killed and here() else 1  # as the worker ended: the batch script then queues the job again
    if len(cells) > 1:
        _suggest(arguments, cells)
    return int(failure is not None)


def _suggest(arguments: list[str], cells: Sequence[CellConfig]) -> None:
    """What is worth trying next; whatever is trained already is reused."""

    def instead(new: str) -> str:
        key = new.partition("=")[0]
        kept = [word for word in arguments if not word.startswith((f"{key}=", f"{key}."))]
        return shlex.join(["lottery", "run", *kept, new])

    seed = max(job.seed for job in cells) + 1
    arms = {job.choices["arm"] for job in cells}
    print("\nnext, reusing what is trained:")
    print(f"  {instead(f'seed={seed},{seed + 1},{seed + 2}')}    # more seeds, narrower intervals")
    if not (arms & {"random_mask", "ticket"}):  # a ticket's masks are no arm's that has a name here
        print(f"  {instead('arm=random_mask')}    # another control: the masks shuffled within each layer")
    if any(job.choices.get("experiment") == "demo" for job in cells):
        print("and the paper's own study, what it would cost (`source .venv/bin/activate` puts lottery on the path):")
        print("  lottery run experiment=fc2019_lenet data=mnist --plan")
