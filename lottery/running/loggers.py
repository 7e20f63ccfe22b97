"""Loggers: any logger of Lightning's, named by import path, as a view of the ledger. Lightning is not imported here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lottery.foundations.digests import leaves
from lottery.running.view import View, say
from lottery.running.wandb_runs import cause
from lottery.store import leases

MODES = ("enabled", "disabled")
TURN_SECONDS = 60.0
PLACES = ("folder", "study", "arm", "seed", "start", "version")


class Loggers(View):
    """Shows a cell's rounds and evaluations in a logger of Lightning's (TensorBoard, CSV, MLflow).

    In texts of the logger's settings, {folder}, {study}, {arm}, {seed} and {start} are the cell's; `start` counts the
    starts of the cell from 0, because some loggers empty a folder that they have written to before. Others go on with
    what an earlier start wrote if told its {version}, as MLflow with a `run_id`; at the first start that is None.
    """

    kept = "logger.json"

    def __init__(self, logger: Callable[..., Any], mode: str = "enabled") -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode}: must be one of {', '.join(MODES)}")
        super().__init__(mode)
        self.logger = logger if isinstance(logger, partial) else partial(logger)
        self.called = getattr(self.logger.func, "__name__", "the logger")
        filled(self.logger.keywords, dict.fromkeys(PLACES, ""))

    def _begin(self) -> Any:
        job, start, version = self.job, self.shown.get("starts", 0), self.shown.get("version")
        self.shown["starts"] = start + 1
        cell = {"folder": self.folder, "study": job.study, "arm": job.label, "seed": job.seed, "start": start}
        cell["version"] = version
        try:
            with turn(self.folder.parents[2] / ".loggers"):
                logger = self.logger.func(*self.logger.args, **filled(self.logger.keywords, cell))
                if isinstance(now := getattr(logger, "version", None), str | int):
                    self.shown["version"] = now
                if version is None or now != version:  # a run that goes on has them, and may refuse others
                    self._settings(logger)
            return Logged(logger, self.shown["step"])
        except Exception as error:
            say(f"{self.called} can't be used ({cause(error)}); going on without it, the ledger has everything")
            return None

    def _settings(self, logger: Any) -> None:
        told = {**self.job.config, "study": self.job.study, "arm_label": self.job.label}
        try:
            logger.log_hyperparams({".".join(key): value for key, value in leaves(told)})
        except Exception as error:  # a logger of anyone's may raise anything
            say(f"{self.called} does not take the settings of this cell ({cause(error)}); it is shown without them")


class Logged:
    """A logger of Lightning's that is spoken to like a run of W&B's."""

    def __init__(self, logger: Any, step: int) -> None:
        self.logger, self.summary, self.step = logger, Summary(self), step

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs numbers at the step that they are about: the optimizer step over all rounds."""
        at = int(values.get("train/step", self.step))
        self.step = max(self.step, at)  # rows that another cell measured are shown last, and a round's after them
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self.logger.log_metrics(numbers, at)

    def finish(self, exit_code: int) -> None:
        self.logger.save()
        self.logger.finalize("failed" if exit_code else "success")


class Summary:
    """What a chain came to, logged once more at its end."""

    def __init__(self, logged: Logged) -> None:
        self.logged = logged

    def update(self, values: Mapping[str, Any]) -> None:
        self.logged.log(values)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Cells open their loggers one after the other: two that create a database of MLflow's at once leave it broken.

    Whoever has waited for `TURN_SECONDS` goes on all the same: the other may wait for a server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    watch, end = leases.Watch(folder), time.monotonic() + TURN_SECONDS
    lease = watch.until(lambda: watch.take() or (nullcontext() if time.monotonic() > end else None))
    with lease:
        yield
        if isinstance(lease, leases.Lease):
            for path in set(folder.glob("lease.*")) - {lease.path}:  # else there would be one for each cell
                path.unlink(missing_ok=True)


def filled(value: Any, cell: Mapping[str, Any]) -> Any:
    """A configuration node with what is the cell's in place of {folder}, {study}, {arm}, {seed}, {start} and {version}.

    A text that is one name alone and stands for None becomes None. Raises ValueError for another name in braces.

    >>> filled({"save_dir": "{folder}", "run_id": "{version}", "depth": 3}, {"folder": "runs/a", "version": None})
    {'save_dir': 'runs/a', 'run_id': None, 'depth': 3}
    >>> filled(["{arm}", "mine"], {"arm": "imp"})
    ['imp', 'mine']
    >>> filled("1version2", {"version": None})
    '1version2'
    """
    if isinstance(value, Mapping):
        return {key: filled(item, cell) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, cell) for item in value]
    if not isinstance(value, str):
        return value
    if value in {f"{{{name}}}" for name, of in cell.items() if of is None}:
        return None
    try:
        return value.format_map(cell)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"logger={value}: in braces can stand {', '.join(PLACES)}") from error
