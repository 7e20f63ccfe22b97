"""Launching: from a command line to cells, and from there through Hydra into processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lottery.calls import make
from lottery.compose import job_of
from lottery.config import build, build_analyses, check
from lottery.data.examples import DataError
from lottery.files import replace
from lottery.ledger import CONFIG, ERROR, NAME, Ledger, LedgerError
from lottery.loop import Diverged
from lottery.names import CONF, Job, Refused
from lottery.progress import Progress
from lottery.ranks import Broken, gathered
from lottery.store import Store
from lottery.study import run
from lottery.training import assist

_MAIN = "LOTTERY_MAIN_PID"


def launch(arguments: list[str]) -> None:
    """Runs a command line through Hydra: `task` for each cell, in whatever processes its launcher starts."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as they are
    os.environ[_MAIN] = str(os.getpid())
    sys.argv = ["lottery run", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


def task(config: DictConfig) -> None:
    """One cell, in a process of the launcher's.

    What goes wrong is left in `error.txt` beside the ledger and not raised: the other cells go on, and whoever
    launched the sweep tells from the ledgers what is missing.
    """
    if os.environ.get(_MAIN, str(os.getpid())) != str(os.getpid()):
        _follow(int(os.environ[_MAIN]))
    job = job_of(config, HydraConfig.get())
    if job.finished():
        return
    (job.folder / ERROR).unlink(missing_ok=True)
    try:
        play(job)
    except Exception as error:
        sentence = describe_error(error)
        print(f"{job.label} seed {job.seed} FAILED: {sentence}", file=sys.stderr, flush=True)
        with suppress(OSError):  # a full or read-only disk has no room for it either
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / ERROR).write_text(f"{sentence}\n\n{traceback.format_exc()}")


def play(job: Job) -> None:
    """Builds, checks and runs a cell, with its views."""
    cell = build(job)
    check(cell)
    analyses = build_analyses(job, cell.study.recipe.data)
    job.folder.mkdir(parents=True, exist_ok=True)
    saved = OmegaConf.to_yaml(OmegaConf.create({**job.config, "store": str(Path(job.config["store"]).resolve())}))
    if not Ledger(job.folder / NAME).lines():  # else the lines that are there may be of another configuration
        replace(job.folder / CONFIG, saved.encode())
    tracker = make("tracking", job.config["tracking"])
    tracker.open(job, job.folder)
    failed = True
    try:
        with gathered(cell.study.recipe.hardware.devices, _assist, job, os.getpid()):
            run(cell, job.folder, Store(job.config["store"]), [Progress(cell), tracker], analyses)
        replace(job.folder / CONFIG, saved.encode())
        failed = False
    finally:
        tracker.close(failed)


def _assist(job: Job, main: int) -> None:
    """A cell's other ranks, each in a process of its own."""
    _follow(main)
    assist(build(job).study.recipe)


def _follow(main: int) -> None:
    """Makes this worker end with the process that started the sweep, and leaves Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # Lightning's own handler would end the sweep with code 0

    parent = os.getppid()  # changes when it ends, even if nobody collects it and its number stays

    def watch() -> None:
        while os.getppid() == parent and (os.path.exists(f"/proc/{main}") or not os.path.exists("/proc/self")):
            time.sleep(0.5)
        os._exit(1)

    if not any(thread.name == "follow" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="follow", daemon=True).start()


def describe_error(error: BaseException) -> str:
    """An error as one sentence: its own if it was written for people, else type and message."""
    if isinstance(error, Refused | DataError | LedgerError | Diverged | Broken):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):  # ours, with a sentence of its own
        return str(error)
    return f"{type(error).__name__}: {error}"
