"""A logger that refuses what MLflow's server refuses, and keeps its runs in a file, as a server does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Strict:
    """Stands in for Lightning's `MLFlowLogger` and the server behind it; test_loggers.py compares their rules.

    `tracking_uri` is the file. A run is its experiment, name, tags, status, parameters, and a history by metric.
    """

    def __init__(
        self, tracking_uri: str, experiment_name: str, run_name: str, run_id: str | None = None, tags: Any = None
    ) -> None:
        self.path, self.version = Path(tracking_uri), run_id
        runs = json.loads(self.path.read_text()) if self.path.exists() else {}
        if run_id is not None and run_id not in runs:
            raise KeyError(f"Run with id={run_id} not found")
        if run_id is None:
            self.version = f"run{len(runs)}"
            about = {"experiment": experiment_name, "name": run_name, "tags": tags}
            runs[self.version] = {**about, "status": "RUNNING", "params": {}, "metrics": {}}
            self.path.write_text(json.dumps(runs))

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        def change(run: dict[str, Any]) -> None:
            for key, value in params.items():
                valid(key)
                if run["params"].setdefault(key, str(value)[:250]) != str(value)[:250]:
                    raise ValueError(f"Changing param values is not allowed. Param with key='{key}' was already logged")

        self._change(change)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        def change(run: dict[str, Any]) -> None:
            for key, value in metrics.items():
                valid(kept := re.sub("[^a-zA-Z0-9_/. -]+", "", key))
                if type(value) is not float:
                    raise ValueError(f"Invalid value {value!r} for metric {key!r}")
                run["metrics"].setdefault(kept, []).append([step, value])

        self._change(change)

    def save(self) -> None: ...

    def finalize(self, status: str) -> None:
        self._change(lambda run: run.update(status={"success": "FINISHED", "failed": "FAILED"}[status]))

    def _change(self, change: Any) -> None:
        runs = json.loads(self.path.read_text())
        change(runs[self.version])
        self.path.write_text(json.dumps(runs))


def valid(name: str) -> None:
    """Raises ValueError for a name that MLflow refuses for a parameter or metric."""
    if not re.fullmatch(r"[/\w.\- :]+", name) or len(name) > 250:
        raise ValueError(f"Invalid value {name[:20]!r} for name: it has other characters, or more than 250")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"Invalid value {name!r} for name: it is no unique path")
