"""A callback that refuses what a project's own hooks do with its weights beside training them.

What a round measures, prunes and keeps must be one network. An average that is put in place while it validates, or at
the end, is another than the one that is pruned; an initialisation in a hook undoes what a round begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.training import ranks
from lottery.training.lightning.loop.guide import Guide
from lottery.training.lightning.loop.position import step_of
from lottery.training.lightning.loop.refusals import check_callbacks, check_monitors, check_names, check_optimizers
from lottery.training.lightning.loop.sums import equal, sums
from lottery.training.states import state_of, weights


class Vigil(Guide):
    """Guides a phase, and looks at a project's parts as it begins and at its weights around what its hooks may do.

    It is one callback with Guide, since each that Lightning asks at every step costs time.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.begins = not self.phase.first
        self.begun = self.trained = torch.zeros(0)
        self.measured: list[Tensor] = []
        """sums while the validation ran that ended last, until they have been compared"""
        self.validated: tuple[int, Tensor] | None = None
        """the step of the last validation, and sums after it"""

    def resume(self, info: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().resume(info, tensors)
        self.begins = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_callbacks(trainer)  # one that looks for a learning rate would train before on_fit_start

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        check_optimizers(trainer, self.val_names.keys())
        self.begun = sums(pl_module, self.phase.masks)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.begins:
            self.begins = False
            check_names(pl_module, weights(self.phase.state).keys(), self.phase.masks.keys())
            self._same(
                self.begun, pl_module, "its on_fit_start or on_train_start, or that of a callback, sets {} as each "
                "round begins, which undoes what the round begins with; set it in __init__"
            )  # fmt: skip
        super().on_train_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if index == 0 and loader == 0:
            self.measured = [sums(pl_module)]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_monitors(trainer)
        now = sums(pl_module)
        self.validated = step_of(trainer), now
        self.measured.append(now)
        super().on_validation_end(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if self.measured:
            self._one_network(pl_module)
        super().on_train_batch_start(trainer, pl_module, batch, index)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._one_network(pl_module)

    def _one_network(self, module: pl.LightningModule) -> None:
        measured, self.measured = self.measured, []
        for each in measured:
            self._same(
                each, module, "a hook or a callback puts another {} in place while it validates, such as an average "
                "(EMA, SWA): what is measured would not be what is pruned and kept. Leave it out, or make the average "
                "a part of the module, in its state_dict, that its steps call"
            )  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trained = sums(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._same(
            self.trained, pl_module, "its on_train_end, or that of a callback, sets {} after the last step, such as to "
            "an average (EMA, SWA): a round prunes and keeps what it has trained; leave it out"
        )  # fmt: skip

    def finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().finish(trainer, module)
        step, validated = self.validated or (-1, self.trained)
        if self.rows and step == self.rows[-1]["step"] == self.phase.last and not equal(validated, self.trained):
            # a hook has changed weights after the last validation: the test is of those that are kept
            tested = self.measure(state_of(module), ["test"], step) if ranks.share()[0] == 0 else {}
            self.rows[-1] |= tested

    def _same(self, were: Tensor, module: pl.LightningModule, said: str) -> None:
        now = sums(module)
        if not equal(were, now):
            names = [name for name, _ in module.named_parameters()]
            odd = next(name for name, one, other in zip(names, were, now, strict=True) if not equal(one, other))
            raise Refused(f"model: {said.format(odd)}")
