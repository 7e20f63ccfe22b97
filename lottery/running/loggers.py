"""Loggers: any logger of Lightning's, named by import path, as a view of the ledger. Lightning is not imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lottery.foundations.digests import leaves
from lottery.running.view import View, say
from lottery.running.wandb_runs import cause

MODES = ("enabled", "disabled")
PLACES = ("folder", "study", "arm", "seed", "start")


class Loggers(View):
    """Shows a cell's rounds and evaluations in a logger of Lightning's (TensorBoard, CSV, MLflow).

    In texts of the logger's settings, {folder}, {study}, {arm}, {seed} and {start} are the cell's; `start` counts the
    starts of the cell from 0, because some loggers empty a folder that they have written to before.
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
        job, start = self.job, self.shown.get("starts", 0)
        self.shown["starts"] = start + 1
        cell = {"folder": self.folder, "study": job.study, "arm": job.label, "seed": job.seed, "start": start}
        try:
            logger = self.logger.func(*self.logger.args, **filled(self.logger.keywords, cell))
            logger.log_hyperparams({".".join(key): value for key, value in leaves({**job.config, **_names(job)})})
            return Logged(logger)
        except Exception as error:
            say(f"{self.called} can't be used ({cause(error)}); going on without it, the ledger has everything")
            return None


class Logged:
    """A logger of Lightning's that is spoken to like a run of W&B's."""

    def __init__(self, logger: Any) -> None:
        self.logger, self.summary, self.step = logger, Summary(self), 0

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs numbers at the step that they are about: the optimizer step over all rounds."""
        self.step = int(values.get("train/step", self.step))
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self.logger.log_metrics(numbers, self.step)

    def finish(self, exit_code: int) -> None:
        self.logger.save()
        self.logger.finalize("failed" if exit_code else "success")


class Summary:
    """What a chain came to, logged once more at its end."""

    def __init__(self, logged: Logged) -> None:
        self.logged = logged

    def update(self, values: Mapping[str, Any]) -> None:
        self.logged.log(values)


def filled(value: Any, cell: Mapping[str, Any]) -> Any:
    """A configuration node with the cell's names in place of {folder}, {study}, {arm}, {seed} and {start}.

    Raises ValueError for another name in braces.

    >>> filled({"save_dir": "{folder}", "version": 3}, {"folder": "runs/a"})
    {'save_dir': 'runs/a', 'version': 3}
    """
    if isinstance(value, Mapping):
        return {key: filled(item, cell) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return value.format_map(cell)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"logger={value}: in braces can stand {', '.join(PLACES)}") from error


def _names(job: Any) -> dict[str, Any]:
    return {"study": job.study, "arm_label": job.label}
