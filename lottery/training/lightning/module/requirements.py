"""What is a user's own module, and what it must have for rounds of training, known before any."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn.parameter import is_lazy

from lottery.foundations.errors import Refused
from lottery.training.modules import Module

STEPS = {
    "training_step": "whose loss is trained",
    "validation_step": "whose logs are the rows of a training",
    "test_step": "whose logs are what networks are compared by",
    "configure_optimizers": "which says how it is trained",
}
"""The methods that a module must have."""


def of_lightning(kind: type) -> bool:
    """Whether a class is a user's own LightningModule or data module."""
    return issubclass(kind, pl.LightningModule | pl.LightningDataModule) and not issubclass(kind, Module)


def check_module(module: pl.LightningModule) -> None:
    """Raises Refused for a module without the steps that are needed, or with weights that no state can keep."""
    kind = type(module).__name__
    for name, why in STEPS.items():
        if not is_overridden(name, module):
            raise Refused(f"model: {kind} has no {name}, {why}")
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise Refused(
                f"model: {name} belongs to a lazy layer, and has no shape before a batch is seen; give the layer its "
                "sizes"
            )
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise Refused(
                f"model: its state_dict has {name}, a {type(value).__name__}; what is kept must be tensors, so "
                "get_extra_state must give one, or a buffer take its place"
            )
    for name, _ in module.named_parameters():
        if name not in state:
            raise Refused(
                f"model: its state_dict leaves out {name}; all weights must be in it, since each round begins with "
                "what is kept"
            )
