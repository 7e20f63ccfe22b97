"""Several ranks that train a project together, each on its share of every batch: what Lightning's DDP leaves open.

The result is that of one process up to rounding where the loss of a batch is the mean of its examples' losses.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.training import ranks
from lottery.training.lightning.loop.sums import equal, sums


class Losses:
    """The losses of whole batches since the last row, of each of which a rank notes its part."""

    def __init__(self, known: Iterable[float] = ()) -> None:
        self._known, self._own = list(known), list[Tensor]()

    def note(self, loss: Tensor, part: float) -> None:
        """Adds a batch, of which this rank has seen a part in (0, 1] with this mean loss."""
        self._own.append(loss if part == 1 else loss.double() * part)

    def whole(self) -> list[float]:
        """All of them, the same on every rank."""
        if self._own:
            own = torch.stack([loss.double() for loss in self._own])
            self._known += torch.stack(ranks.everyone(own)).sum(0).tolist()
            self._own.clear()
        return self._known


class Timely:
    """Rank 0's answers to a question of time, on every rank; it is asked so seldom that it takes little of a step."""

    def __init__(self, seconds: float) -> None:
        self.every = min(seconds, 1.0) / 20
        self.step, self.stride, self.asked = 0, 1, time.monotonic()
        self.next = 0

    def __call__(self, step: int, answer: bool) -> bool:
        if ranks.share()[1] == 1:
            return answer
        if step < self.next:
            return False
        now = time.monotonic()
        each = (now - self.asked) / max(1, step - self.step)
        self.stride = max(1, min(10 * self.stride, int(self.every / max(each, 1e-9))))
        self.step, self.asked = step, now
        answer, self.next = ranks.agree((answer, step + self.stride))
        return answer


class Together(pl.Callback):
    """Keeps the ranks of a training alike: gradients of unequal shares, buffers, validation, what schedulers monitor.

    Also where a training of several processes is tried by one. Raises Broken where ranks have come apart, and Refused
    for gradients that no rank hears of.
    """

    def __init__(self, loaders: Any, devices: int) -> None:
        self.loaders, self.devices = loaders, devices
        self.weight, self.backward, self.compared = 1.0, False, False
        self.evaluating = ExitStack()
        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:
            for optimizer in trainer.optimizers:
                optimizer.register_step_pre_hook(lambda *_: self._check_backward())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if ranks.share()[1] > 1:  # Lightning's handler asks the other ranks, which may wait for this one
            signal.signal(signal.SIGTERM, self.on_sigterm)
        own, loop = pl_module.backward, trainer.fit_loop.epoch_loop
        monitored = loop._get_monitor_value

        def backward(loss: Tensor, *rest: Any, **more: Any) -> None:
            self.backward = True
            own(loss if self.weight == 1 else loss * self.weight, *rest, **more)

        def agreed(key: str) -> Any:
            """The mean over the ranks: what training logs is of a rank's own shares."""
            found = [each for each in ranks.everyone_says(_number(monitored(key))) if each is not None]
            return torch.tensor(found).mean() if found else None

        pl_module.backward = backward  # type: ignore[method-assign]  # of this module alone
        if ranks.share()[1] > 1:
            loop._get_monitor_value = agreed  # type: ignore[method-assign]  # of this loop alone

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        # DDP takes the mean over ranks; a smaller share must count for less in it
        count = ranks.share()[1]
        self.weight = self.loaders[0].part(index) * count
        if count == 1:
            return
        if not pl_module.automatic_optimization:  # else DDP does it
            ranks.copy_first_(pl_module.buffers())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if not self.compared and not trainer.fit_loop.epoch_loop._should_accumulate():
            self.compared = True
            _compare(pl_module, "its first step")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _compare(pl_module, "its last step")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _compare(pl_module, f"step {trainer.global_step}")
        ranks.copy_first_(pl_module.buffers())
        self.evaluating.enter_context(ranks.alone())  # each validates on all the data

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = dict(trainer.callback_metrics)
        self.evaluating.close()
        if ranks.share()[1] > 1:
            found = ranks.agree({name: value.cpu() for name, value in found.items()})
            on_device = {name: value.to(pl_module.device) for name, value in found.items()}
            trainer._logger_connector._callback_metrics.update(on_device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.evaluating.close()

    def _check_backward(self) -> None:
        if not self.backward:
            raise Refused(
                f"hardware.devices={self.devices}: self.manual_backward(loss) averages gradients over processes, and "
                "training_step steps an optimizer without it; call it in place of loss.backward()"
            )


def _compare(module: pl.LightningModule, after: str) -> None:
    """Raises Broken if ranks do not hold the same weights."""
    if ranks.share()[1] == 1:
        return
    first, *others = ranks.everyone(sums(module).to(module.device))
    if not all(equal(first, other) for other in others):
        raise ranks.Broken(
            f"model: after {after} its processes hold different weights, which one gradient for all would not give; "
            "hardware.devices=1 trains it"
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
