"""Lightning's checkpoints without pickle: in memory in place of files, and as tensors and plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from lottery.foundations.errors import Refused

HYPERPARAMETERS = ("hyper_parameters", "hparams_name", "hparams_type")
"""What `save_hyperparameters` adds to a checkpoint: the configuration has it, and it may hold anything."""


def parted(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, and the rest for JSON. Raises Refused, naming the place, for anything else.

    >>> tensors, rest = parted({"step": 3, "best": float("inf"), "rates": (0.1,)})
    >>> joined(tensors, rest)
    {'step': 3, 'best': inf, 'rates': (0.1,)}
    """
    tensors: dict[str, Tensor] = {}
    kept = {key: value for key, value in checkpoint.items() if not key.endswith(HYPERPARAMETERS)}
    return tensors, _encoded(kept, "", tensors)


def joined(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The dictionary that `parted` took apart."""
    if not isinstance(rest, dict):
        return rest
    [(kind, value)] = rest.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "float":
        return float(value)
    if kind == "dict":
        return {joined(tensors, key): joined(tensors, item) for key, item in value}
    return {"list": list, "tuple": tuple, "set": set}[kind](joined(tensors, item) for item in value)


def _encoded(value: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{at}"  # numbered, since "a.b" and a, b would have one name
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, dict):
        pairs = [(key, item) for key, item in value.items()]
        return {"dict": [[_encoded(k, f"{at}.{k}", tensors), _encoded(v, f"{at}.{k}", tensors)] for k, v in pairs]}
    if isinstance(value, list | tuple | set):
        items = [_encoded(item, f"{at}.{index}", tensors) for index, item in enumerate(value)]
        return {"set" if isinstance(value, set) else "tuple" if isinstance(value, tuple) else "list": items}
    raise Refused(
        f"a checkpoint can't hold {at.removeprefix('.')}, a {type(value).__name__}: what a module, its callbacks, "
        "optimizers or schedulers keep must be tensors and plain data, since no pickle is ever loaded"
    )


class InMemory(CheckpointIO):
    """Takes the dictionary that Lightning would pickle, and gives one back that it would unpickle."""

    def __init__(self, begin: dict[str, Any] | None) -> None:
        self.checkpoint = begin

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.checkpoint = checkpoint

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        assert self.checkpoint is not None
        return self.checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        self.checkpoint = None

    def taken(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Everything that Lightning would save now, on each rank; its own saving gives it to the first alone."""
        return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
