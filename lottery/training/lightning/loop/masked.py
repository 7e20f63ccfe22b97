"""The callback that keeps pruned weights at zero while Lightning trains, whatever the optimizers, and changes masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from lottery.foundations.errors import Refused
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks
from lottery.training.changing import Changing, masks_in
from lottery.training.holding import Holding
from lottery.training.lightning.loop.position import step_of
from lottery.training.phase import Phase
from lottery.training.recipes import Recipe
from lottery.training.states import state_of


class Masked(pl.Callback):
    """Pruned weights are zero after every step of every optimizer, and their gradients count in no clipping.

    With a rule for it, masks change before the first batch of a step, or in place of the step's update. `begin` is the
    checkpoint that training goes on from.
    """

    def __init__(
        self, phase: Phase, recipe: Recipe, begin: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None
    ) -> None:
        self.phase, self.recipe, self.begin = phase, recipe, begin
        self.handles: list[Any] = []
        self.restored: Callable[[], None] = lambda: None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after_hooks = _hooked(trainer)  # before any hook of the module's is replaced
        # Lightning has loaded the weights: under the masks that the phase began with, grown ones would be lost
        masks = masks_in(self.begin[0], self.phase) if self.begin else self.phase.masks
        holding = self.holding = Holding(pl_module, masks, across=True)
        for optimizer in trainer.optimizers:
            self.handles.append(optimizer.register_step_post_hook(lambda *_: holding.mask_weights()))
            if not pl_module.automatic_optimization:  # its gradients may come from `loss.backward()`, without a hook
                self.handles.append(optimizer.register_step_pre_hook(lambda *_: holding.mask_gradients()))

        def look(masks: Masks, order: int, rng: torch.Generator) -> AbstractContextManager[Evidence]:
            # of a module of its own, so that asking it moves nothing of the Trainer at work
            state, start = state_of(pl_module), self.phase.state
            evidence = self.recipe.evidence(state, start, masks, self.phase.build, order, rng)
            own = dict(evidence.net.named_parameters())
            for name, parameter in pl_module.named_parameters():  # hooks and callbacks freeze and thaw layers
                own[name].requires_grad_(parameter.requires_grad)
            return nullcontext(evidence)

        self.changing = Changing(self.phase, self.recipe, trainer.optimizers, holding, look)
        if self.begin:
            self.changing.restore(*self.begin)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.holding.mask_weights()  # a checkpoint may have been loaded since
        if self.after_hooks:
            own = pl_module.configure_gradient_clipping

            def clip(*given: Any, **more: Any) -> None:
                if not self._takes(step_of(trainer)):
                    self.holding.mask_gradients()
                own(*given, **more)

            pl_module.configure_gradient_clipping = clip  # type: ignore[method-assign]  # of this module alone

    def after_batch(self) -> None:
        """Once all hooks are done with a batch: what they have put into pruned weights is zero again."""
        if self.after_hooks:
            self.holding.mask_weights()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if not self.phase.changes:  # asking Lightning for the step takes longer than all else here
            return
        if self.due(step := step_of(trainer)):
            self.changing.before(step)
        if self._takes(step):
            self._replace_step(*trainer.optimizers)

    def due(self, step: int) -> bool:
        """Whether masks are still to change at a step, which may have several batches."""
        changed = self.changing.changed
        return self.changing.due(step) and not (changed and changed[-1]["step"] == step)

    def _takes(self, step: int) -> bool:
        return step in self.changing.in_place

    def _replace_step(self, optimizer: Optimizer) -> None:
        """The optimizer's next step runs the closure, which gives gradients and changes masks, and updates nothing."""
        own = vars(optimizer).get("step")  # schedulers have put theirs there

        def restored() -> None:
            self.restored = lambda: None
            del optimizer.step
            if own:
                optimizer.step = own  # type: ignore[method-assign]  # as it was

        def instead(closure: Callable[[], Any] | None = None, **_: Any) -> Any:
            restored()
            optimizer._opt_called = True  # type: ignore[attr-defined]  # or schedulers warn that they come first
            return closure() if closure else None

        optimizer.step = instead  # type: ignore[method-assign]  # of this optimizer, for one step
        self.restored = restored

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.phase.changes or not self._takes(step_of(trainer)):
            self.holding.mask_gradients()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Where the gradients of all batches of a step are there, and not clipped yet."""
        if not self.phase.changes or not self._takes(step := step_of(trainer)) or not self.due(step):
            return
        self.changing.takes(step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self.phase.changes:
            return
        self.restored()
        last = step_of(trainer) - 1
        if last >= self.phase.first and self._takes(last) and self.due(last):
            raise Refused(
                f"model: its optimizer_step takes no step at step {last}, whose gradients arm.during looks at"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for handle in self.handles:
            handle.remove()


def _hooked(trainer: pl.Trainer) -> bool:
    """Whether hooks of the project may change gradients or weights after this callback has had its turn."""
    hooks = ("on_after_backward", "on_before_optimizer_step", "optimizer_step", "on_train_batch_end")
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set outside its class
    others = any(not type(each).__module__.startswith("lottery.") for each in callbacks)
    return others or any(is_overridden(hook, trainer.lightning_module) for hook in hooks)
