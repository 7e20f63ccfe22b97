"""Runs of W&B: how they are named, opened, and what tables and pictures in them are. The one module that knows wandb.

Whoever trains goes on without W&B where this raises.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lottery.foundations.digests import digest_of

MOST_OF_JOB_TYPE, MOST_OF_PROJECT, MOST_OF_TAG = 64, 128, 64  # characters that W&B takes
UNHEEDED = ("WANDB_DIR", "WANDB_JOB_TYPE", "WANDB_NAME", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_RUN_ID")
"""Environment variables of W&B that have no effect, because a restarted cell must find its run again."""
INIT_SECONDS = 30  # the longest wait for a server at the start; then the run is kept offline
FINISH_SECONDS = 30
LEAST_FREE = 1 << 16
"""Bytes of a disk that is taken for full: W&B writes blocks of 32 KiB, and a run's end needs room too."""
AXES = {"round/*": "round/density", "train/*": "train/step"}
"""What is plotted over which axis of its own: W&B's step can't go back, but a killed cell repeats its last steps."""
ROUNDS = "rounds"
"""The table of all rounds in a cell's run."""
STUDY = "report"
"""The job type, and in place of an arm the label, of the run that shows a whole study."""


@dataclass(frozen=True)
class Told:
    """Which cell a run shows; a `CellConfig` says the same."""

    study: str
    label: str
    seed: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where runs go: a project, and an entity if it is not the user's default one."""

    project: str = "lottery"
    entity: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.project) <= MOST_OF_PROJECT or set(self.project) & set("/\\#?%:"):
            raise ValueError(
                f"project={self.project}: must be a name of 1 to {MOST_OF_PROJECT} characters without / \\ # ? % and :"
                f"{whence('WANDB_PROJECT', self.project)}"
            )

    @property
    def named(self) -> str:
        """The place in one line, with the server that it is on: what was sent elsewhere is not there."""
        return f"{server()} {self.entity or '-'} {self.project}"


def server() -> str:
    """The address of the server that runs are sent to: as the environment says, else as W&B's own settings do."""
    if said := os.environ.get("WANDB_BASE_URL"):
        return said.rstrip("/")
    _drop_empty()
    import wandb

    return str(wandb.setup().settings.base_url).rstrip("/")


def run_id(study: str, label: str, seed: int) -> str:
    """The id of a cell's run, the same at every start, so that a restarted job resumes its run."""
    return digest_of([study, label, seed])[:16]


def job_type(label: str) -> str:
    """An arm's label, shortened to what W&B accepts; it would refuse a longer one only when it is sent."""
    return label if len(label) <= MOST_OF_JOB_TYPE else f"{label[: MOST_OF_JOB_TYPE - 9]}~{digest_of(label)[:8]}"


def tags(study: str, label: str) -> list[str]:
    """What a run can be filtered by: recipe or model, data, and the arm's name without its settings.

    >>> tags("fc2019_lenet-mnist-0a1b2c3d", "imp,rewind=500it")
    ['fc2019_lenet', 'mnist', 'imp']
    """
    every = [*study.rsplit("-", 2)[:2], label.partition(",")[0]]
    return [tag[:MOST_OF_TAG] for tag in dict.fromkeys(every) if tag]


def unheeded(environment: Mapping[str, str]) -> str:
    """Names the environment variables that have no effect, in one sentence; empty if none is set."""
    names = " and ".join(name for name in UNHEEDED if environment.get(name))
    return names and f"{names} not heeded: a cell's W&B run lies in its folder, named and grouped by study and arm"


def whence(variable: str, value: str) -> str:
    """Names the environment variable that a value came from, because the user has typed no key."""
    return f"; the variable {variable} says so" if os.environ.get(variable) == value else ""


def _drop_empty() -> None:
    """Unsets a WANDB_MODE that says nothing: W&B would refuse it as a mode, though another was asked for."""
    if os.environ.get("WANDB_MODE") == "":
        del os.environ["WANDB_MODE"]


def cause(error: Exception) -> str:
    """An error of W&B's, or of the system's, in a line."""
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]


def open_run(told: Told, folder: Path, mode: str, place: Place, seconds: float | None = None) -> Any:
    """The run of a cell, new or gone on with; `seconds` is the longest that its end may take.

    Raises whatever W&B raises: without a key, a server, a disk.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_LOGIN_TIMEOUT", str(INIT_SECONDS))
    _drop_empty()
    import wandb

    whole = told.label == STUDY
    with quiet():
        run = wandb.init(
            project=place.project,
            entity=place.entity,
            mode=mode,  # type: ignore[arg-type]  # online or offline
            dir=str(folder),
            id=run_id(told.study, told.label, told.seed),
            resume="allow",
            reinit="create_new",
            group=told.study,
            job_type=job_type(told.label),
            name=told.study if whole else f"{told.label}/seed{told.seed}",
            tags=tags(told.study, told.label),
            config={**told.config, "study": told.study, **({} if whole else {"arm_label": told.label})},
            settings=wandb.Settings(
                x_transaction_log_flush_interval=0.1,  # seconds of rows that a kill loses; the default is 15
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS if seconds is None else seconds,
                x_disable_stats=True,
                console="off",
            ),
        )
    for axis in AXES.values():
        run.define_metric(axis, hidden=True)
    for names, axis in AXES.items():
        run.define_metric(names, step_metric=axis)
    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Python from printing a traceback for each line of W&B's log that a full disk refuses, later ones too."""
    loud, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = loud
        for handler in logging.getLogger("wandb").handlers:
            setattr(handler, "handleError", lambda record: None)  # noqa: B010  # of this handler alone


def full(folder: Path) -> str:
    """Says that the disk of a run's files is full, which W&B does not; empty if it is not."""
    place = folder / "wandb"  # may be a link to another disk
    with suppress(OSError):  # W&B itself meets what else may be wrong with the folder
        try:
            free = shutil.disk_usage(place).free
        except FileNotFoundError:  # before the first run
            free = shutil.disk_usage(folder).free
        if free < LEAST_FREE:
            return (
                f"{place}: No space left on device, so that W&B lacks what follows; the ledger has everything, "
                "and once there is room, `lottery wandb backfill` makes what is missing"
            )
    return ""


def arrived(run: Any) -> int:
    """How many rows of a run the server had when it was opened: the step that it goes on with."""
    return int(run.starting_step)  # `step` asks W&B's own process, which says 0 before the first row


def forget() -> None:
    """Ends W&B's own processes: else a failed attempt keeps the id of its run."""
    import wandb

    wandb.teardown()


def table(lines: Sequence[Mapping[str, Any]]) -> Any:
    """Lines as a table of W&B's: one column for each key whose values are numbers or texts."""
    import wandb

    plain = [{key: value for key, value in line.items() if isinstance(value, str | float | int)} for line in lines]
    keys: list[str | int] = list(dict.fromkeys(key for line in plain for key in line))
    rows: list[Any] = [[line.get(str(key)) for key in keys] for line in plain]
    return wandb.Table(columns=keys, data=rows, allow_mixed_types=True)


def picture(path: Path) -> Any:
    """A picture file as W&B shows it."""
    import wandb

    return wandb.Image(str(path))


def attach(run: Any, file: Path, name: str, about: Mapping[str, Any], seconds: float) -> None:
    """Sends a ticket file with a run that is online, as an artifact; comes back once the server has all of it.

    Where it comes from is in its metadata, since what a run takes in can't be noted offline. Raises what W&B raises.
    """
    import wandb

    artifact = wandb.Artifact(name, "ticket", metadata=dict(about))
    artifact.add_file(str(file), policy="immutable")  # a copy elsewhere could be lost before it is sent
    run.log_artifact(artifact).wait(timeout=int(seconds))


def default_entity(seconds: int) -> str:
    """The entity that the key belongs to. Raises what W&B raises."""
    _drop_empty()
    import wandb

    return str(wandb.Api(timeout=seconds).default_entity)
