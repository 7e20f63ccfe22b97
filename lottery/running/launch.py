"""Launching: Hydra turns a command line into cells and runs each in a process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lottery.config.build import build, build_analyses
from lottery.config.cell_config import CellConfig
from lottery.config.check import check
from lottery.config.compose import VERSION, cell_config, parsed
from lottery.config.differences import changed
from lottery.config.groups import CONF
from lottery.config.nodes import make
from lottery.config.projects import added
from lottery.config.user_code import check_imported
from lottery.foundations.errors import Lost, Refused, describe
from lottery.foundations.files import write_whole
from lottery.foundations.job import Task, here
from lottery.running.cell import Callback, record_cell
from lottery.running.progress import Progress
from lottery.running.slurm import tasks
from lottery.running.slurm.attempts import Attempts
from lottery.store import leases
from lottery.store.entries import Store
from lottery.store.folder import CONFIG, ERROR, NAME, leave_error
from lottery.store.ledger import Ledger
from lottery.training.fit import assist
from lottery.training.ranks import gathered

_MAIN, _NAMES = "LOTTERY_MAIN_PID", "LOTTERY_STUDIES"


def launch(arguments: list[str], names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Runs a command line through Hydra, which calls `task` for each cell in the processes of its launcher.

    Of several studies on one terminal, `names` are what their cells' lines begin with.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises errors instead of printing them
    os.environ[_MAIN] = str(os.getpid())
    wide = max(map(len, names.values()), default=0)
    os.environ[_NAMES] = json.dumps({study: f"{name:<{wide}} " for study, name in names.items()})
    # Hydra looks into --config-dir last, so ours is given as such: a user's option comes before ours of the same name.
    mine = parsed(arguments).config_dir
    sys.argv = ["lottery run", *added(arguments), *(["--config-dir", str(CONF)] if mine else [])]
    first = str(Path(mine).resolve() if mine else CONF)
    hydra.main(version_base=VERSION, config_path=first, config_name="config")(task)()


def task(config: DictConfig) -> None:
    """Runs one cell, in a process of Hydra's launcher.

    Errors are written to `error.txt` beside the ledger and not raised, so that the other cells go on. The process that
    launched the sweep reads from the ledgers which cells are unfinished.
    """
    if os.environ.get(_MAIN, str(os.getpid())) != str(os.getpid()):
        _follow(int(os.environ[_MAIN]))
    job, mine = cell_config(config, HydraConfig.get()), here()
    if mine and mine.rank:
        tasks.follow(mine, job.folder, lambda: assist(build(job).study.recipe))
        return
    try:
        if not job.finished():
            attempt(job, mine)
    finally:
        if mine:
            tasks.dismiss(mine, job.folder)


def attempt(job: CellConfig, mine: Task | None) -> None:
    """Runs a cell; an error is printed and written to `error.txt`."""
    try:
        run_cell(job, mine)
    except Lost as lost:  # no error.txt: the folder is another process's now
        print(f"{_study(job)}{job.label} seed {job.seed}: {lost}", file=sys.stderr, flush=True)
    except (Exception, SystemExit) as error:  # a user's own code may call sys.exit
        sentence = describe(error)
        print(f"{_study(job)}{job.label} seed {job.seed} FAILED: {sentence}", file=sys.stderr, flush=True)
        leave_error(job.folder, sentence, traceback.format_exc())


def run_cell(job: CellConfig, mine: Task | None = None) -> None:
    """Builds, checks and runs a cell with its callbacks; `mine` is this process as a Slurm task."""
    callbacks: list[Callback] = []
    waiting: leases.Waiting = nullcontext
    if mine:
        attempts = Attempts(job.folder, mine)
        attempts.begin()
        callbacks.append(attempts)
        waiting = attempts.waiting
    store = Store(job.config["store"], waiting)
    cell = build(job)
    check_imported(list(job.config.values()))
    check(cell)
    analyses = build_analyses(job, cell.study.recipe.data)
    if differs := changed(job):
        raise Ledger(job.folder / NAME).refusal(0, "; ".join(differs))
    tracker = make("tracking", job.config["tracking"])
    tracker.open(job, job.folder)
    callbacks += [Progress(cell, job.folder, _study(job)), tracker]
    failed = True
    try:
        with _together(job, mine):
            record_cell(cell, job.folder, store, callbacks, analyses, lambda: _told(job))
        failed = False
    finally:
        tracker.close(failed)


def _study(job: CellConfig) -> str:
    """What a cell's lines on the terminal begin with, to tell its study from others."""
    return json.loads(os.environ.get(_NAMES, "{}")).get(job.study, "")


@contextmanager
def _told(job: CellConfig) -> Iterator[None]:
    """Writes beside the ledger how the cell is configured, and takes away why it had failed.

    Lines that are there may come from another configuration, which is replaced once all were played again.
    """
    saved = f"# lottery run {shlex.join(job.command)}\n"
    saved += OmegaConf.to_yaml(OmegaConf.create({**job.config, "store": str(Path(job.config["store"]).resolve())}))
    (job.folder / ERROR).unlink(missing_ok=True)
    if not Ledger(job.folder / NAME).lines():
        write_whole(job.folder / CONFIG, saved.encode())
    yield
    write_whole(job.folder / CONFIG, saved.encode())


def _together(job: CellConfig, mine: Task | None) -> AbstractContextManager[None]:
    """A context with the cell's other ranks: Slurm's tasks if it has started several, else processes of our own."""
    devices = job.config["hardware"]["devices"]
    if mine is None or mine.count == 1:
        return gathered(devices, _assist, job, os.getpid())
    if mine.count != devices:
        raise Refused(f"hardware.devices={devices}: this job has {mine.count} tasks; both must be the same number")
    return tasks.leading(mine, job.folder)


def _assist(job: CellConfig, main: int) -> None:
    """Runs a cell's rank other than the first, in a process of its own."""
    _follow(main)
    assist(build(job).study.recipe)


def _follow(main: int) -> None:
    """Makes this worker end with the process `main` that started the sweep, and leaves signals to that process."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # Slurm signals all processes of a job
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # Lightning's own handler would end the sweep with code 0

    parent = os.getppid()  # changes when the parent ends, even if that stays a zombie

    def watch() -> None:
        while os.getppid() == parent and (os.path.exists(f"/proc/{main}") or not os.path.exists("/proc/self")):
            time.sleep(0.5)
        os._exit(1)

    if not any(thread.name == "follow" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="follow", daemon=True).start()
