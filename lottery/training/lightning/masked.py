"""The callback that keeps pruned weights at zero while Lightning trains, whatever the optimizers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lottery.pruning.masks import Masks
from lottery.training.holding import Holding


class Masked(pl.Callback):
    """Pruned weights are zero after every step of every optimizer, and their gradients count in no clipping."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.handles: list[Any] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        holding = self.holding = Holding(pl_module, self.masks, across=True)
        for optimizer in trainer.optimizers:
            self.handles.append(optimizer.register_step_post_hook(lambda *_: holding.mask_weights()))
            if not pl_module.automatic_optimization:  # its gradients may come from `loss.backward()`, without a hook
                self.handles.append(optimizer.register_step_pre_hook(lambda *_: holding.mask_gradients()))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.holding.mask_weights()  # a checkpoint may have been loaded since

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.holding.mask_gradients()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for handle in self.handles:
            handle.remove()
