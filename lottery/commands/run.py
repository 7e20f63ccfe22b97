"""`lottery run`: a command line from end to end: compose, check, launch, report, and say what is missing.

What needs PyTorch is imported when there is something to train: looking at a finished study takes a second.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery.commands.report import publish
from lottery.config.cell_config import CellConfig
from lottery.foundations.errors import Refused, describe
from lottery.foundations.job import here
from lottery.running.slurm import attempts, preemption
from lottery.store.folder import ERROR, error_left

EXAMPLES = """examples:
  lottery run experiment=demo                                 a whole study, about a minute
  lottery run experiment=fc2019_lenet data=mnist --plan       what it would train, and for how long
  lottery run model=lenet_300_100 data=digits arm=imp seed=3,4 schedule.rounds=12 -m
  lottery status runs/demo-digits-*                           what runs, waits, failed, and is left to do
  lottery report runs/demo-digits-*                           table and figure again, from the ledgers
  lottery verdict experiments/frankle_carbin_2019             a paper's claims, and whether they hold
"""

HELP = """usage: lottery run [GROUP=NAME ...] [KEY=VALUE ...] [-m] [--plan]

Trains, prunes and rewinds until every cell asked for is in its ledger, then reports. The same command goes on
where it was interrupted, and trains nothing that is in the store.

  experiment=NAME     a recipe with its own sweep over arms and seeds; `lottery list experiment` names them
  model=NAME ...      any other group: `lottery list` names groups and what is in them
  KEY=VALUE           a setting; +KEY=VALUE adds one that the yaml lacks, ~KEY takes one out. Stable keys:
                        out store seed data.root data.batch_size data.val_size data.augment model._target_
                        optimizer.lr optimizer.decay optimizer.clip_norm budget.steps schedule.rounds
                        arm.rewind arm.parent stop.density stop.below_dense numerics.precision
                        numerics.sparse hardware.devices tracking.mode
                      durations are 500 or 500it (optimizer steps) or 2ep (epochs)
  arm=a,b seed=0,1 -m sweeps: one cell for each combination
  hydra.mode=RUN      one cell of an experiment: lottery run experiment=demo hydra.mode=RUN arm=imp seed=0
  --plan              trains nothing, but reads the data: what would be trained or reused, and for how long
  --cfg job           prints the configuration; --config-dir DIR adds a folder of yours; further flags: --hydra-help

"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser, for its line in `lottery --help`; what its arguments mean is for Hydra to say."""
    parser = commands.add_parser("run", help="run a study or a cell; the arguments are Hydra overrides", add_help=False)
    parser.add_argument("overrides", nargs=argparse.REMAINDER)
    parser.set_defaults(call=lambda args: main(args.overrides))


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments of `lottery run` ask for, or only shows its help, its configuration or its plan."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(HELP + EXAMPLES, end="")
        return 0
    # argparse, by which Hydra reads its flags, takes overrides before them only
    words = sorted(arguments, key=lambda word: word.startswith("-") or not ("=" in word or word.startswith("~")))
    if {"--cfg", "-c", "--hydra-help", "--info", "-i", "--shell-completion", "-sc"} & set(words):
        from lottery.running.launch import launch

        launch(words)
        return 0
    if "--plan" in words:
        from lottery.commands.plan import show
        from lottery.config.compose import cell_configs

        show(cell_configs([word for word in words if word != "--plan"]))
        return 0
    return run(words)


def run(arguments: list[str]) -> int:
    """Runs every cell that a command line asks for and is not finished; returns the exit code."""
    from lottery.config.compose import composed

    mine = here()
    if mine and mine.step:  # else the batch script decides whether its job is queued again
        preemption.guard(mine)
        if mine.rank:
            _train(arguments, {})
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
        names = _names(cells)
        own = dict.fromkeys(job.study for job in cells)
        told = [f"{study} ({names[study]})" if names.get(study, study) != study else study for study in own]
        print(f"{', '.join(told)}: {len(still_open)} cells to run, in {Path(cells[0].config['out'])}/", flush=True)
        for job in still_open:
            if reason := error_left(job.folder):
                cell = f"{names.get(job.study, '')} {job.label} seed {job.seed}".lstrip()
                print(f"{cell} is tried again; it had failed: {reason}", flush=True)
        if remote:
            submit(still_open, launcher)
            wait(still_open)
        else:
            for job in still_open:  # so that `lottery status` finds them
                job.folder.mkdir(parents=True, exist_ok=True)
            failure = _train(arguments, names)
    return _conclude(arguments, cells, failure)


def _names(cells: Sequence[CellConfig]) -> dict[str, str]:
    """What to call each of several studies: by the settings in which they differ, or by its own name."""
    from lottery.config.cell_config import science
    from lottery.config.differences import apart, called

    of = {job.study: science(job.config) for job in cells}
    return called(apart(of)) if len(of) > 1 else {}


def _train(arguments: list[str], names: Mapping[str, str]) -> Exception | None:
    """Runs the cells in the processes of Hydra's launcher; returns the first error of a launch."""
    from lottery.config.compose import by_experiment
    from lottery.running.launch import launch

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    failure = None
    for part in by_experiment(arguments):
        try:
            launch(part, names)
        except Exception as error:
            if wants_traceback:
                raise
            failure = failure or error
    return failure


def _check(cells: Sequence[CellConfig]) -> None:
    """Builds and checks one cell of each arm and study, so that errors are raised before any worker starts."""
    from lottery.config.build import build, build_analyses
    from lottery.config.check import check, note
    from lottery.config.nodes import make
    from lottery.running.wandb_runs import unheeded

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
    except SystemExit as stop:  # a user's own code called sys.exit, which would end this command without a message
        raise Refused(describe(stop)) from stop


def _conclude(arguments: list[str], cells: Sequence[CellConfig], failure: Exception | None) -> int:
    """Reports the finished cells, and names those that failed or are missing."""
    try:
        for problem in publish(dict.fromkeys(job.folder.parent.parent for job in cells)):
            print(f"left out of the report: {problem}", file=sys.stderr)
    except Exception as error:  # whatever fails in the report must not hide which cells failed
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
        return 137 if killed and here() else 1  # the worker's code, on which the batch script queues the job again
    if len(cells) > 1:
        _suggest(arguments, cells)
    return int(failure is not None)


def _suggest(arguments: list[str], cells: Sequence[CellConfig]) -> None:
    """Prints commands that are worth trying next; they reuse the phases that are trained."""

    def instead(*new: str) -> str:
        key = new[0].partition("=")[0]
        kept = [word for word in arguments if not word.startswith((f"{key}=", f"{key}."))]
        return shlex.join(["lottery", "run", *kept, *new])

    seed = max(job.seed for job in cells) + 1
    arms = [job.choices["arm"] for job in cells]
    own = [job.choices["arm"] for job in cells if not job.parent]
    print("\nnext, reusing what is trained:")
    print(f"  {instead(f'seed={seed},{seed + 1},{seed + 2}')}    # more seeds, narrower intervals")
    # a ticket's masks are no arm's that has a name here, and neither are those of an arm with other settings
    if not {"random_mask", "ticket"} & {*arms} and own and not any(word.startswith("arm.") for word in arguments):
        of = [] if "imp" in own else [f"arm.parent={own[0]}"]
        print(f"  {instead('arm=random_mask', *of)}    # another control: the masks shuffled within each layer")
    if any(job.choices.get("experiment") == "demo" for job in cells):
        print("and the paper's own study, what it would cost (`source .venv/bin/activate` puts lottery on the path):")
        print("  lottery run experiment=fc2019_lenet data=mnist --plan")
