"""What a project has that no round can be trained with, known once its training begins: tried before the first."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lottery.foundations.errors import Refused
from lottery.training.lightning import accumulators


def check_parts(trainer: pl.Trainer) -> None:
    """Raises Refused for callbacks that end or save a training, and for a module without optimizers."""
    averaging = (pl.callbacks.WeightAveraging, pl.callbacks.StochasticWeightAveraging)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set outside its class
        gives = f"model: its configure_callbacks gives {type(callback).__name__}; leave it out"
        if isinstance(callback, pl.callbacks.EarlyStopping | pl.callbacks.ModelCheckpoint):
            raise Refused(
                f"{gives}: every round trains equally long and is kept by the framework, which reads early stopping "
                "from the rows"
            )
        if isinstance(callback, averaging):
            raise Refused(
                f"{gives}: it would bring back weights of before a rewinding, and averages that are not pruned"
            )
    if not trainer.optimizers or any(type(each).__name__ == "_MockOptimizer" for each in trainer.optimizers):
        raise Refused("model: its configure_optimizers gives no optimizer, so that nothing would be trained")


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
