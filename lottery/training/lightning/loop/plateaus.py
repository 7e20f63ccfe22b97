"""Schedulers that Lightning steps only after a batch is done and validated: ReduceLROnPlateau by steps.

A checkpoint is taken before that, so that their step would be in none: a resumed training would pass over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl


class Plateaus:
    """Steps them before a checkpoint is taken; where a validation comes first, what follows a batch waits for both."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._loop: Any = trainer.fit_loop.epoch_loop
        self._own, self._stepped = self._loop.update_lr_schedulers, False
        self._then: Callable[[], None] | None = None
        self.late = False
        """whether the batch before is done with, as Lightning counts it"""
        automatic = trainer.lightning_module.automatic_optimization
        kinds = [(each.interval, each.reduce_on_plateau) for each in trainer.lr_scheduler_configs]
        self.any = automatic and ("step", True) in kinds
        if self.any:
            self._loop.update_lr_schedulers = self._update  # type: ignore[method-assign]  # of this loop alone

    def settle(self, validates: bool, then: Callable[[], None]) -> None:
        """Does `then` once the schedulers have had their turn after a batch that `validates`, or does not."""
        if not self.any:
            then()
        elif validates:
            self._then = then
        else:
            self._own("step", update_plateau_schedulers=True)
            self._stepped = True
            then()

    def _update(self, interval: str, update_plateau_schedulers: bool) -> None:
        if interval != "step" or not update_plateau_schedulers:
            self._own(interval, update_plateau_schedulers=update_plateau_schedulers)
            return
        # resumed at an epoch's beginning, Lightning steps them for the batch before the first one
        if not self._stepped and self._loop.batch_progress.current.ready:
            self._own(interval, update_plateau_schedulers=True)
        self._stepped, then, self._then = False, self._then, None
        if then:
            self.late = True
            then()
            self.late = False
