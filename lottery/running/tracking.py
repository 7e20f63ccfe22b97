"""Weights & Biases: a view of the ledger, one run a cell. Training goes on without W&B if it fails.

W&B's own step can't go back, but a killed cell repeats its last steps. So metrics have axes of their own:
`train/step` counts optimizer steps over all rounds, `round/density` is the kept share of weights. The file `wandb.json`
beside the ledger says what the run has been sent, so that a restarted cell sends nothing twice.
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
from lottery.store.ledger import Line
from lottery.training.recipes import Row

MODES = ("offline", "online", "disabled")
MOST_OF_JOB_TYPE, MOST_OF_PROJECT = 64, 128  # characters that W&B takes
UNHEEDED = ("WANDB_DIR", "WANDB_JOB_TYPE", "WANDB_NAME", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_RUN_ID")
"""Environment variables of W&B that have no effect, because a restarted cell must find its run again."""
INIT_SECONDS = 30  # the longest wait for a server at the start; then the run is kept offline
FINISH_SECONDS = 30


def run_id(study: str, label: str, seed: int) -> str:
    """The id of a cell's run, the same at every start, so that a restarted job resumes its run."""
    return digest_of([study, label, seed])[:16]


def job_type(label: str) -> str:
    """An arm's label, shortened to what W&B accepts; it would refuse a longer one only at `wandb sync`."""
    return label if len(label) <= MOST_OF_JOB_TYPE else f"{label[: MOST_OF_JOB_TYPE - 9]}~{digest_of(label)[:8]}"


def unheeded(environment: Mapping[str, str]) -> str:
    """Names the environment variables that have no effect, in one sentence; empty if none is set."""
    names = " and ".join(name for name in UNHEEDED if environment.get(name))
    return names and f"{names} not heeded: a cell's W&B run lies in its folder, named and grouped by study and arm"


class Tracker:
    """Logs a cell's rounds and evaluations to one W&B run, which is opened at the first one not yet logged."""

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
        # steps count over all rounds; `before`: steps of earlier rounds; `gaps`: spans whose rows another cell
        # measured, and which are logged when the round ends
        self.shown: dict[str, Any] = {"round": -1, "step": 0, "before": 0, "gaps": []}

    def open(self, job: CellConfig, folder: Path) -> None:
        """Sets the cell to log. What was logged before is read later, once this process holds the cell's lease."""
        self.job, self.folder, self.cursor = job, folder, folder / "wandb.json"

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        if not self._new(current.index):
            return
        if self.following != current.index:  # rows before another cell's checkpoint were logged there, not here
            self.following = current.index
            self.shown["gaps"].append([self.shown["step"], self.shown["before"] + step - current.first])
        if row is not None:
            self._row(row, current.first, [])

    def finished(self, line: Line, rows: Sequence[Row]) -> None:
        if not self._new(line["round"]):
            return
        first = int(rows[-1]["step"]) - line["train_steps"]
        for row in rows:
            self._row(row, first, self.shown["gaps"])
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        layers = {f"density/{name}": value for name, value in line["layer_densities"].items()}
        self._tell(lambda run: run.log({f"round/{key}": value for key, value in {**numbers, **layers}.items()}))
        if line.is_last:
            kept = ("density", "compression_ratio", *(k for k in numbers if k.startswith(("test_", "early_stop_"))))
            self._tell(lambda run: run.summary.update({f"final/{key}": line[key] for key in kept}))
        steps = self.shown["before"] + line["train_steps"]
        self.shown = {"round": line["round"], "step": steps, "before": steps, "gaps": []}
        self._keep()

    def close(self, failed: bool) -> None:
        """Ends the run, marked as failed if the cell has failed."""
        if self.run is not None:
            try:
                self.run.finish(exit_code=int(failed))
            except Exception as error:
                _say(f"W&B did not finish ({_first(error)}); the ledger has everything")

    def _new(self, index: int) -> bool:
        """Whether a round is still to be logged; if so, opens the run first."""
        if not self.begun and self.cursor.exists():
            with suppress(OSError, ValueError):  # damaged by a power cut: some rows may be logged twice
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

                    wandb.teardown()  # else the failed attempt keeps the run's id
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
                x_transaction_log_flush_interval=0.1,  # seconds of rows that a kill loses; the default is 15
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
        """Logs one evaluation, unless it was logged before."""
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
        with suppress(OSError):  # best effort: after a restart some rows may be logged twice
            temporary.write_text(json.dumps(self.shown))
            temporary.replace(self.cursor)


def _whence(variable: str, value: str) -> str:
    """Names the environment variable that a value came from, because the user has typed no key."""
    return f"; the variable {variable} says so" if os.environ.get(variable) == value else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]
