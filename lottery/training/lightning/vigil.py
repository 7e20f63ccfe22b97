"""A callback that refuses what a project's own hooks do with its weights beside training them.

What a round measures, prunes and keeps must be one network. An average that is put in place while it validates, or at
the end, is another than the one that is pruned; an initialisation in a hook undoes what a round begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lottery.foundations.errors import Refused
from lottery.training.lightning.position import step_of
from lottery.training.lightning.refusals import check_callbacks, check_monitors, check_names, check_optimizers
from lottery.training.phase import Phase
from lottery.training.states import weights


class Vigil(pl.Callback):
    """Looks at a project's parts as its training begins, and at its weights around what its hooks may do to them.

    Its own hooks come before those of the module and of its callbacks. `validated` are the names that validation logs.
    """

    def __init__(self, phase: Phase, validated: Set[str], resumed: bool) -> None:
        self.phase, self.validated = phase, validated
        self.begins = not resumed and not phase.first
        self.begun = self.trained = torch.zeros(0)
        self.measured: list[Tensor] = []
        """sums while the validation ran that ended last, until they have been compared"""
        self.row: tuple[int, Tensor] | None = None
        self.moved = False
        """whether the weights have changed after the last step's validation: its row is not of what is kept"""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_callbacks(trainer)  # one that looks for a learning rate would train before on_fit_start

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(trainer, self.validated)
        check_names(pl_module, weights(self.phase.state).keys(), self.phase.masks.keys())
        self.begun = sums(pl_module, self.phase.masks)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.begins:
            self.begins = False
            self._same(
                self.begun, pl_module, "its on_fit_start or on_train_start, or that of a callback, sets {} as each "
                "round begins, which undoes what the round begins with; set it in __init__"
            )  # fmt: skip

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if index == 0 and loader == 0:
            self.measured = [sums(pl_module)]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_monitors(trainer)
        now = sums(pl_module)
        self.row = step_of(trainer), now
        self.measured.append(now)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self._one_network(pl_module)

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
        step, validated = self.row or (-1, self.trained)
        self.moved = step == step_of(trainer) and not _equal(validated, self.trained)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._same(
            self.trained, pl_module, "its on_train_end, or that of a callback, sets {} after the last step, such as to "
            "an average (EMA, SWA): a round prunes and keeps what it has trained; leave it out"
        )  # fmt: skip

    def _same(self, were: Tensor, module: pl.LightningModule, said: str) -> None:
        now = sums(module)
        if not _equal(were, now):
            names = [name for name, _ in module.named_parameters()]
            odd = next(name for name, one, other in zip(names, were, now, strict=True) if not _equal(one, other))
            raise Refused(f"model: {said.format(odd)}")


def sums(module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Tensor:
    """The sum of each parameter, without what is masked: another network has others, and it takes no memory.

    In double precision, so that the last bit of a weight counts.
    """
    found = []
    for name, parameter in module.named_parameters():
        weight = parameter.detach()
        if masks and name in masks:
            weight = weight * masks[name].to(weight.device)
        found.append((torch.view_as_real(weight) if weight.is_complex() else weight).sum(dtype=torch.float64))
    return torch.stack(found).cpu()


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
