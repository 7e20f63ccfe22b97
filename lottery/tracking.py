"""Weights & Biases: a view of the ledger, one run a cell. It may be down, offline, full or absent.

Axes of its own, because W&B's step can't go back and a killed run's last steps come twice:
`train/step` counts optimizer steps over all rounds, `round/density` is the kept share of weights.
A small file beside the ledger says how far the run has come, so that a restarted cell repeats nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.digests import digest_of
from lottery.names import Job
from lottery.rounds import Round
from lottery.training import Row

MODES = ("offline", "online", "disabled")
INIT_SECONDS = 30  # the longest wait for a server at the start; then the run is kept offline
FINISH_SECONDS = 120


def run_id(study: str, label: str, seed: int) -> str:
    """The same for every start of a cell, so that a restarted job goes on in the same run."""
    return digest_of([study, label, seed])[:16]


class Tracker:
    """Shows a cell's rounds and evaluations in one W&B run."""

    def __init__(self, mode: str = "offline", project: str = "lottery", entity: str | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode}: must be one of {', '.join(MODES)}")
        self.mode, self.project, self.entity = mode, project, entity
        self.run: Any = None

    def open(self, job: Job, folder: Path) -> None:
        """Begins the cell's run, or goes on with it."""
        self.cursor = folder / "wandb.json"
        self.shown = {"round": -1, "step": 0, "before": 0}  # `before`: steps of the rounds before this one
        if self.cursor.exists():
            self.shown |= json.loads(self.cursor.read_text())
        if self.mode == "disabled":
            return
        try:
            self.run = self._init(job, folder, self.mode)
        except Exception as error:
            if self.mode == "online":
                _say(f"W&B does not answer ({_first(error)}); this cell is kept offline, `wandb sync` sends it later")
                self.mode = "offline"
                try:
                    self.run = self._init(job, folder, "offline")
                except Exception as second:
                    error = second
            if self.run is None:
                _say(f"W&B can't be used ({_first(error)}); going on without it, the ledger has everything")

    def _init(self, job: Job, folder: Path, mode: str) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,  # type: ignore[arg-type]
            dir=str(folder),
            id=run_id(job.study, job.label, job.seed),
            resume="allow",
            reinit="create_new",
            group=job.study,
            job_type=job.label,
            name=f"{job.label}/seed{job.seed}",
            config={**job.config, "study": job.study, "arm_label": job.label},
            settings=wandb.Settings(
                x_transaction_log_flush_interval=1.0,  # a kill loses a second of it, not fifteen
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

    def advanced(self, current: Round, step: int, row: Row | None) -> None:
        if row is not None and current.index > self.shown["round"]:
            self._row(row, current.first)

    def finished(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        if line["round"] <= self.shown["round"]:
            return
        first = int(rows[-1]["step"]) - line["train_steps"]
        for row in rows:
            self._row(row, first)
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        layers = {f"density/{name}": value for name, value in line["layer_densities"].items()}
        self._log({f"round/{key}": value for key, value in {**numbers, **layers}.items()})
        self.shown["round"] = line["round"]
        self.shown["before"] = self.shown["step"] = self.shown["before"] + line["train_steps"]
        self._keep()
        if self.run is not None and line["round"] == line["rounds"]:
            for key in ("density", "compression_ratio", *(k for k in line if k.startswith(("test_", "early_stop_")))):
                self.run.summary[f"final/{key}"] = line[key]

    def close(self, failed: bool) -> None:
        """Ends the run; a failed one is marked so."""
        if self.run is not None:
            try:
                self.run.finish(exit_code=int(failed))
            except Exception as error:
                _say(f"W&B did not finish ({_first(error)}); the ledger has everything")

    def _row(self, row: Row, first: int) -> None:
        """One evaluation, unless it was shown before."""
        step = self.shown["before"] + int(row["step"]) - first
        if step > self.shown["step"]:
            self._log({f"train/{k}": v for k, v in row.items() if k != "step"} | {"train/step": step})
            self.shown["step"] = step
            self._keep()

    def _log(self, values: Mapping[str, float]) -> None:
        if self.run is not None:
            try:
                self.run.log(dict(values))
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _first(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]
