"""Weights & Biases: a view of the ledger, one run a cell. It may be down, offline, full or absent.

Axes of its own, because W&B's step can't go back and a killed run's last steps come twice:
`train/step` counts optimizer steps over all rounds, `round/density` is the kept share of weights.
A small file beside the ledger says how far the run has come, so that a restarted cell repeats nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.config.cell_config import CellConfig
from lottery.foundations.digests import digest_of
from lottery.rounds.round import Round
from lottery.store.ledger import is_last
from lottery.training.recipes import Row

MODES = ("offline", "online", "disabled")
MOST_OF_JOB_TYPE, MOST_OF_PROJECT = 64, 128  # characters that W&B takes
UNHEEDED = ("WANDB_DIR", "WANDB_JOB_TYPE", "WANDB_NAME", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_RUN_ID")
"""variables of W&B's that set what is settled here: a restarted cell must find its run again"""
INIT_SECONDS = 30  # the longest wait for a server at the start; then the run is kept offline
FINISH_SECONDS = 30


def run_id(study: str, label: str, seed: int) -> str:
    """The same for every start of a cell, so that a restarted job goes on in the same run."""
    return digest_of([study, label, seed])[:16]


def job_type(label: str) -> str:
    """An arm's label as W&B takes it; a longer one would be refused when it is synced, after the training."""
    return label if len(label) <= MOST_OF_JOB_TYPE else f"{label[: MOST_OF_JOB_TYPE - 9]}~{digest_of(label)[:8]}"


def unheeded(environment: Mapping[str, str]) -> str:
    """Which variables of W&B's do not count, in one sentence; empty if none is set."""
    names = " and ".join(name for name in UNHEEDED if environment.get(name))
    return names and f"{names} not heeded: a cell's W&B run lies in its folder, named and grouped by study and arm"


class Tracker:
    """Shows a cell's rounds and evaluations in one W&B run, which begins with the first that it has not yet shown."""

    def __init__(self, mode: str = "offline", project: str = "lottery", entity: str | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode}: must be one of {', '.join(MODES)}{_whence('WANDB_MODE', mode)}")
        if not 0 < len(project) <= MOST_OF_PROJECT or set(project) & set("/\\#?%:"):
            raise ValueError(
                f"project={project}: must be a name of 1 to {MOST_OF_PROJECT} characters without / \\ # ? % and :"
                f"{_whence('WANDB_PROJECT', project)}"
            )
        self.mode, self.project, self.entity = mode, project, entity
        self.run: Any = None
        self.begun, self.following = False, -1
        # in steps over all rounds; `before`: those of earlier rounds; `gaps`: measured elsewhere, shown at the end
        self.shown: dict[str, Any] = {"round": -1, "step": 0, "before": 0, "gaps": []}

    def open(self, job: CellConfig, folder: Path) -> None:
        """Says which cell is shown. What was shown before is read later, when this process has the cell to itself."""
        self.job, self.folder, self.cursor = job, folder, folder / "wandb.json"

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        if not self._new(current.index):
            return
        if self.following != current.index:  # rows before a checkpoint that another cell left were never heard of here
            self.following = current.index
            self.shown["gaps"].append([self.shown["step"], self.shown["before"] + step - current.first])
        if row is not None:
            self._row(row, current.first, [])

    def finished(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        if not self._new(line["round"]):
            return
        first = int(rows[-1]["step"]) - line["train_steps"]
        for row in rows:
            self._row(row, first, self.shown["gaps"])
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        layers = {f"density/{name}": value for name, value in line["layer_densities"].items()}
        self._tell(lambda run: run.log({f"round/{key}": value for key, value in {**numbers, **layers}.items()}))
        if is_last(line):
            kept = ("density", "compression_ratio", *(k for k in numbers if k.startswith(("test_", "early_stop_"))))
            self._tell(lambda run: run.summary.update({f"final/{key}": line[key] for key in kept}))
        steps = self.shown["before"] + line["train_steps"]
        self.shown = {"round": line["round"], "step": steps, "before": steps, "gaps": []}
        self._keep()

    def close(self, failed: bool) -> None:
        """Ends the run; a failed one is marked so."""
        if self.run is not None:
            try:
                self.run.finish(exit_code=int(failed))
            except Exception as error:
                _say(f"W&B did not finish ({_first(error)}); the ledger has everything")

    def _new(self, index: int) -> bool:
        """Whether a round is still to be shown; if so, the run has begun."""
        if not self.begun and self.cursor.exists():
            with suppress(OSError, ValueError):  # torn by a power cut: rows may come twice
                self.shown |= json.loads(self.cursor.read_text())
        new = index > self.shown["round"]
        if new and not self.begun and self.mode != "disabled":
            self._begin()
        self.begun = self.begun or new
        return new

    def _begin(self) -> None:
        try:
            self.run = self._init(self.mode)
        except Exception as error:
            if self.mode == "online":
                _say(f"W&B does not answer ({_first(error)}); this cell is kept offline, `wandb sync` sends it later")
                try:
                    import wandb

                    wandb.teardown()  # the failed attempt would keep the id for itself
                    self.run = self._init("offline")
                except Exception as second:
                    error = second
            if self.run is None:
                _say(f"W&B can't be used ({_first(error)}); going on without it, the ledger has everything")

    def _init(self, mode: str) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_LOGIN_TIMEOUT", str(INIT_SECONDS))
        import wandb

        job = self.job
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,  # type: ignore[arg-type]  # one of MODES, as __init__ has checked
            dir=str(self.folder),
            id=run_id(job.study, job.label, job.seed),
            resume="allow",
            reinit="create_new",
            group=job.study,
            job_type=job_type(job.label),
            name=f"{job.label}/seed{job.seed}",
            config={**job.config, "study": job.study, "arm_label": job.label},
            settings=wandb.Settings(
                x_transaction_log_flush_interval=0.1,  # seconds that a kill can lose, else fifteen
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                x_disable_stats=True,
                console="off",
            ),
        )
        for axis in ("round/density", "train/step"):
            run.define_metric(axis, hidden=True)
        run.define_metric("round/*", step_metric="round/density")
        run.define_metric("train/*", step_metric="train/step")
        return run

    def _row(self, row: Row, first: int, gaps: list[list[int]]) -> None:
        """One evaluation, unless it was shown before."""
        step = self.shown["before"] + int(row["step"]) - first
        if gap := next((gap for gap in gaps if gap[0] < step < gap[1]), None):
            gap[0] = step
        elif step > self.shown["step"]:
            self.shown["step"] = step
        else:
            return
        values = {f"train/{k}": v for k, v in row.items() if k != "step" and v is not None} | {"train/step": step}
        self._tell(lambda run: run.log(values))
        self._keep()

    def _tell(self, act: Callable[[Any], object]) -> None:
        if self.run is not None:
            try:
                act(self.run)
            except Exception as error:
                _say(f"W&B stopped ({_first(error)}); going on without it, the ledger has everything")
                self.run = None

    def _keep(self) -> None:
        if self.run is None:
            return
        temporary = self.cursor.with_suffix(".tmp")
        with suppress(OSError):  # a full disk: some rows may come twice after a restart
            temporary.write_text(json.dumps(self.shown))
            temporary.replace(self.cursor)


def _whence(variable: str, value: str) -> str:
    """Names the variable that a value came from, since its user has typed no key."""
    return f"; the variable {variable} says so" if os.environ.get(variable) == value else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]
