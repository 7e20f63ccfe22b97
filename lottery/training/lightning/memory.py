"""Checkpoints of Lightning in memory, in place of files that it would pickle."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO


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
