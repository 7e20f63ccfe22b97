"""Lightning's Trainer for a project: its own arguments, and everything turned off that the framework does itself."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lottery.foundations.errors import nearby
from lottery.training.hardware import OFF, SET, Hardware, devices
from lottery.training.numerics import Numerics

INSTEAD = SET | {
    "barebones": "nothing: the Trainer is bare already",
    "callbacks": "configure_callbacks of your module",
    "model_registry": "nothing",
    "num_sanity_val_steps": "nothing: every project is tried with a few batches before training",
    "overfit_batches": "trainer.limit_train_batches",
    "plugins": "numerics.precision",
    "reload_dataloaders_every_n_epochs": "nothing: loaders are made once for each training",
    "use_distributed_sampler": "hardware.devices",
}
"""Trainer arguments that the framework sets, and what to use instead."""


def checked_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, if Lightning's Trainer has them and they are a user's to set. Raises ValueError if not."""
    known = sorted(inspect.signature(pl.Trainer).parameters.keys() - INSTEAD.keys())
    for name, value in given.items():
        if name in INSTEAD:
            raise ValueError(f"trainer.{name}={value}: is set by the framework; use {INSTEAD[name]}")
        if name not in known:
            raise ValueError(f"trainer.{name}={value}: Lightning's Trainer has no such argument; {nearby(name, known)}")
    every = given.get("val_check_interval", 1.0)
    if isinstance(every, bool) or not isinstance(every, int | float):
        raise ValueError(f"trainer.val_check_interval={every}: must be a number; a time would measure at other steps")
    if every <= 0:
        raise ValueError(f"trainer.val_check_interval={every}: must be above 0, a number of batches or a share")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = given.get(name, 1)
        none = value is None and name == "check_val_every_n_epoch"  # validation is counted in batches then
        if not none and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"trainer.{name}={value}: must be a whole number, 1 or more")
    for part in ("val", "test"):
        if given.get(f"limit_{part}_batches", 1) == 0:
            raise ValueError(f"trainer.limit_{part}_batches=0: must be above 0; a curve needs what {part} steps log")
    return dict(given)


def trainer_of(hardware: Hardware, numerics: Numerics, arguments: Mapping[str, Any], **ours: Any) -> pl.Trainer:
    """A Trainer with a project's arguments and ours, which win."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    given = devices(hardware)
    if "strategy" in given:
        given["strategy"] = Averaging(cluster_environment=LightningEnvironment(), find_unused_parameters=True)
    plugins = [*given.pop("plugins", []), *ours.pop("plugins", [])]
    # the logger answers self.logger.experiment.add_image(...), which False would not
    settings = OFF | {"logger": DummyLogger(), "use_distributed_sampler": False}
    return pl.Trainer(
        accelerator="gpu" if hardware.device == "cuda" else "cpu",
        precision=numerics.precision,  # type: ignore[arg-type]  # one of PRECISIONS
        plugins=plugins,
        **given,
        **{**settings, **arguments, **ours},
    )


def bare() -> pl.Trainer:
    """What a project's `setup` finds as its Trainer before any training: it knows nothing of one."""
    return trainer_of(Hardware("cpu"), Numerics(), {})


class Averaging(DDPStrategy):
    """Lightning's DDP for modules that may freeze layers, or use them in some batches only."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # after all callbacks and hooks: DDP averages what trained when it was made
        assert self.lightning_module is not None
        if _trains(self.lightning_module) != self.trains:
            self.model = self.lightning_module
            self.configure_ddp()

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        self.trains = _trains(model)
        # Where no parameter is unused, PyTorch writes to stderr that it need not have looked. So one always is; it is
        # in neither optimizers nor states.
        model.register_parameter("never_used", nn.Parameter(torch.zeros((), device=self.root_device)))
        try:
            return super()._setup_model(model)
        finally:
            del model.never_used


QUIET = (
    ".*does not have many workers.*",  # how many is the project's own choice
    ".*Consider setting `persistent_workers=True`.*",  # `Ordered` begins them with each epoch
    ".*LeafSpec.*",  # Lightning 2.6 under PyTorch 2.14
    ".*`srun` command is available.*",  # as on every login node
    ".*GPU available but not used.*",  # hardware=cpu asked for that
    ".*smaller than the logging interval.*",  # rows are read from metrics, not from Lightning's logger
    ".*before the epoch ended and your dataloader is.*",  # it is resumed at the epoch's beginning
    ".*Trying to infer the `batch_size`.*",
    ".*`weights_only`.*",  # no checkpoint is a file: see `InMemory`
    ".*`self.log.*sync_dist=True.*",  # what training logs is read where schedulers monitor it, and agreed upon there
    ".*conditioned on metric .* which is not available but strict is set to `False`.*",  # where no step is taken
)
"""Warnings of Lightning about what is as it should be here."""


@contextmanager
def quiet(*more: str) -> Iterator[None]:
    """A context without the warnings of QUIET, and without more of them."""
    with warnings.catch_warnings():
        for message in (*QUIET, *more):
            warnings.filterwarnings("ignore", message)
        yield


def _trains(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]
