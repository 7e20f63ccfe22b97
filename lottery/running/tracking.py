"""Weights & Biases: a view of the ledger, one run a cell. Training goes on without W&B if it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lottery.running.segments import logged
from lottery.running.view import View, chain, say
from lottery.running.wandb_runs import ROUNDS, Place, arrived, cause, forget, full, open_run, table, whence

MODES = ("offline", "online", "disabled")


class Tracker(View):
    """Logs a cell's rounds and evaluations to one W&B run, which is opened at the first one not yet logged."""

    called, kept = "W&B", "wandb.json"

    def __init__(self, mode: str = "offline", project: str = "lottery", entity: str | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode}: must be one of {', '.join(MODES)}{whence('WANDB_MODE', mode)}")
        super().__init__(mode)
        self.place = Place(project, entity)

    def _begin(self) -> Any:
        if self._full():
            return None
        try:
            run = self._init(self.mode)
            if self.mode == "online":
                self._catch_up(run)
            return run
        except Exception as error:
            if self.mode == "online":
                kept = "this cell is kept offline, `lottery wandb sync` sends it later"
                say(f"W&B does not answer ({cause(error)}); {kept}")
                try:
                    forget()
                    return self._init("offline")
                except Exception as second:
                    error = second
            say(f"W&B can't be used ({cause(error)}); going on without it, the ledger has everything")
            return None

    def _init(self, mode: str) -> Any:
        return open_run(self.job, self.folder, mode, self.place)

    def _catch_up(self, run: Any) -> None:
        """Logs again what an earlier process logged and the server does not have, as after it was killed."""
        if (there := arrived(run)) < self.shown["rows"]:
            for values in logged(self.folder).after(there, self.folder):
                run.log(values)

    def close(self, failed: bool) -> None:
        super().close(failed)
        if self.run is not None:
            self._full()  # since the last row

    def _full(self) -> bool:
        """Whether the disk is full, having said so: W&B takes rows all the same, and loses them without a word."""
        if said := full(self.folder):
            say(said)
        return bool(said)

    def _tell(self, act: Callable[[Any], object]) -> None:
        if self.run is not None and self._full():
            super().close(failed=True)  # while there is room for it
            self.run = None
        super()._tell(act)

    def _conclude(self) -> None:
        if lines := chain(self.folder):
            self._log({ROUNDS: table(lines)})
