"""Loaders or data sets by the name of their part, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from lottery.data.examples import DataError

PARTS = ("train", "val", "test")


class Loaders(pl.LightningDataModule):
    """Loaders by part, as a data module."""

    def __init__(self, parts: Mapping[str, Any], batch_size: int | None) -> None:
        super().__init__()
        if unknown := sorted(set(parts) - {*PARTS}):
            raise DataError(f"data: gives {unknown[0]!r}; its parts are train, val and test")
        self.parts = {name: self._loader(name, part, batch_size) for name, part in parts.items()}

    def train_dataloader(self) -> Any:
        return self.parts.get("train")

    def val_dataloader(self) -> Any:
        return self.parts.get("val")

    def test_dataloader(self) -> Any:
        return self.parts.get("test")

    @staticmethod
    def _loader(name: str, part: Any, batch_size: int | None) -> Any:
        if not isinstance(part, Dataset):
            return part
        if batch_size is None:
            raise DataError(f"data: its {name} is a data set, and needs data.batch_size")
        return DataLoader(part, batch_size, shuffle=name == "train")


def data_module(made: Any, batch_size: int | None) -> pl.LightningDataModule:
    """What a `data` node gave, as a data module. Raises DataError for anything but one, or loaders or data sets."""
    if isinstance(made, Mapping):
        parts = {name: part for name, part in made.items() if name != "batch_size"}
        return Loaders(parts, made.get("batch_size", batch_size))
    if not isinstance(made, pl.LightningDataModule):
        raise DataError(
            f"data: gives a {type(made).__name__}; a LightningModule takes a LightningDataModule, or loaders or data "
            "sets by part: {'train': ..., 'val': ..., 'test': ...}"
        )
    return made
