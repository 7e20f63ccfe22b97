"""What a module's own `setup` and `configure_model` do to it: once, when it is made, and nothing to given weights."""

from __future__ import annotations

from types import MethodType

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from lottery.foundations.errors import Refused, describe


def set_up(module: pl.LightningModule, data: pl.LightningDataModule, trainer: pl.Trainer) -> pl.LightningModule:
    """Runs a module's `setup("fit")`, then its `configure_model`, which may make layers or load weights.

    They are a part of its initialisation. Lightning runs them again for each training and each measurement, whose
    weights are given: from now on, `setup` leaves weights as they are, and `configure_model` does nothing. Raises
    Refused, when `setup` is run again, if it makes other layers, or if it changes weights and fails here, where its
    Trainer does not know what is to be trained.
    """
    if is_overridden("setup", module):
        _set_up(module, data, trainer)
    if is_overridden("configure_model", module):
        module.configure_model()
        module.configure_model = lambda: None  # type: ignore[method-assign]  # of this module alone
    return module


def _set_up(module: pl.LightningModule, data: pl.LightningDataModule, trainer: pl.Trainer) -> None:
    failed, was = "", data.trainer
    trainer.datamodule, data.trainer, module.trainer = data, trainer, trainer  # type: ignore[attr-defined]  # as attached
    try:
        module.setup("fit")
    except Exception as error:  # a user's module may raise anything
        failed = describe(error)
    finally:
        data.trainer, module.trainer = was, None

    def setup(self: pl.LightningModule, stage: str) -> None:
        given = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        type(self).setup(self, stage)
        said, found = f"model: setup of {type(self).__name__}", self.state_dict()
        if {name: tensor.shape for name, tensor in found.items()} != {name: each.shape for name, each in given.items()}:
            raise Refused(f"{said} makes other layers than before{f', where it failed: {failed}' if failed else ''}")
        if failed and any(not found[name].equal(tensor) for name, tensor in given.items()):
            raise Refused(f"{said} changes weights, but failed when the module was made: {failed}")
        self.load_state_dict(given)

    module.setup = MethodType(setup, module)  # type: ignore[method-assign]  # a deep copy of the module has its own
