"""What a project has that no round can be trained with, known once its training begins."""

from __future__ import annotations

from collections.abc import Set

import pytorch_lightning as pl
from pytorch_lightning import callbacks
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from lottery.foundations.errors import Refused
from lottery.training.lightning.loop import accumulators

EQUALLY = "every round trains equally long and is kept by the framework, which reads early stopping from the rows"
CALLBACKS: dict[type[pl.Callback], str] = {
    callbacks.EarlyStopping: EQUALLY,
    callbacks.ModelCheckpoint: EQUALLY,
    callbacks.Timer: EQUALLY,
    callbacks.WeightAveraging: "it would bring back weights of before a rewinding, and averages that are not pruned",
    callbacks.StochasticWeightAveraging: "it would bring back weights of before a rewinding, and averages that are not "
    "pruned",
    callbacks.ModelPruning: "criterion=, scope= and schedule= choose what is pruned, and masks are the framework's",
    callbacks.GradientAccumulationScheduler: "a step would have other batches later on, and an epoch other steps than "
    "budgets count; trainer.accumulate_grad_batches=2 is the same all along",
    callbacks.LearningRateFinder: "each round would look for a rate of its own, after training steps that no seed "
    "counts; find it once, and give it as model.lr or as your module calls it",
    callbacks.BatchSizeFinder: "each round would look for a size of its own; find it once, and give it as "
    "data.batch_size or as your data module calls it",
    callbacks.RichProgressBar: "progress is shown by the framework, and several trainings would share its screen",
}
"""Lightning's callbacks that no round can have, and why."""


def check_callbacks(trainer: pl.Trainer) -> None:
    """Raises Refused for a callback of CALLBACKS."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set outside its class
        for kind, why in CALLBACKS.items():
            if isinstance(callback, kind):
                raise Refused(f"model: its configure_callbacks gives {type(callback).__name__}; leave it out: {why}")


def check_optimizers(trainer: pl.Trainer, validated: Set[str] = frozenset()) -> None:
    """Raises Refused for a module without optimizers, and for a scheduler that looks before a validation has logged.

    `validated` are the names that validation logs.
    """
    if not trainer.optimizers or any(type(each).__name__ == "_MockOptimizer" for each in trainer.optimizers):
        raise Refused("model: its configure_optimizers gives no optimizer, so that nothing would be trained")
    every = trainer.check_val_every_n_epoch or 1
    for config in trainer.lr_scheduler_configs:
        waits = config.reduce_on_plateau and config.strict and config.interval == "epoch"
        if waits and config.monitor in validated and config.frequency % every:
            raise Refused(
                f"model: configure_optimizers has a scheduler that monitors {config.monitor} at every "
                f"{_times(config.frequency)}, and trainer.check_val_every_n_epoch={every} logs it at every "
                f"{_times(every)}; give the scheduler a frequency that is a multiple, or leave the argument out"
            )


def _times(epochs: int) -> str:
    return "epoch" if epochs == 1 else f"{epochs} epochs"


def check_names(module: nn.Module, state: Set[str], masked: Set[str]) -> None:
    """Raises Refused if setup or a hook has changed which weights there are since the module was made.

    `state` are the names of what the module began with, `masked` of those of its weights that are pruned.
    """
    own, parameters = module.state_dict().keys(), {name for name, _ in module.named_parameters()}
    if odd := sorted((own ^ state) | (masked - parameters)):
        has = "is new" if odd[0] not in state else "is gone" if odd[0] not in own else "is another weight now"
        raise Refused(
            f"model: {odd[0]} {has} once training begins: its on_fit_start changes which weights it has; "
            "they must be there when it is made, or by configure_model"
        )


def check_monitors(trainer: pl.Trainer) -> None:
    """Raises Refused for a scheduler whose metric nothing logs: at the epoch's end Lightning would."""
    if is_overridden("on_train_epoch_end", trainer.lightning_module):  # which may log it, after the validation
        return
    logged = {*trainer.callback_metrics, *accumulators.names(trainer)}
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor not in logged:
            raise Refused(
                f"model: configure_optimizers has a scheduler that monitors {config.monitor}, which nothing logs; "
                f"logged are {', '.join(sorted(logged))}"
            )
