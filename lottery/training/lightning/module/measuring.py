"""Measuring: what a project's validation and test steps log, for any of its states."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torchmetrics import Metric

from lottery.foundations.seeds import seed_all
from lottery.training.lightning.data.evaluating import measured_on
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.failures import explained
from lottery.training.lightning.trainers import quiet
from lottery.training.recipes import Row


@dataclass(frozen=True)
class Logged:
    """What a loop logs: the names of a row by the names that the module gives, and metrics that say their direction."""

    names: Mapping[str, str]
    metrics: Mapping[str, Metric]


def measure(
    trainer_for: Callable[..., pl.Trainer], module: pl.LightningModule, data: ProjectData, part: str, seed: int
) -> tuple[Row, Logged]:
    """Runs validation (`val`) or `test` of a module, seeded; its values by the names of a row.

    `trainer_for` gives a Trainer with these further arguments.
    """
    trainer = trainer_for(callbacks=[_Seeded(seed)])
    datamodule = data.at(part)
    own, seen, was = module.log, dict[str, Metric](), datamodule.trainer

    def log(name: str, value: Any, *rest: Any, **more: Any) -> None:
        if isinstance(value, Metric):
            seen[name] = value
        own(name, value, *rest, **more)

    module.log = log  # type: ignore[method-assign]  # of this module, for a while
    run = trainer.validate if part == "val" else trainer.test
    try:
        with explained(), quiet(), measured_on(datamodule, part):
            run(module, datamodule=datamodule, verbose=False)
    finally:
        datamodule.trainer = was
        del module.log
    found: dict[str, tuple[str, Any]] = {}
    for name, value in trainer.callback_metrics.items():
        called = row_name(part, name)
        if called not in found or name.startswith(part):  # val_dice before dice, if it logs both
            found[called] = name, value
    names = {name: called for called, (name, _) in found.items()}
    metrics = {
        row: seen[bare] for name, row in names.items() if (bare := name.partition("/dataloader_idx_")[0]) in seen
    }
    return {called: number(value) for called, (_, value) in found.items()}, Logged(names, metrics)


class _Seeded(pl.Callback):
    """Seeds a validation or a test where training would: after the loaders have been asked for their batches."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seed_all(self.seed)

    on_test_start = on_validation_start


def row_name(part: str, logged: str) -> str:
    """The name of a row for what a loop logged: its part, and the name without that.

    >>> row_name("val", "val/dice"), row_name("val", "valid_loss")
    ('val_dice', 'val_loss')
    >>> row_name("test", "psnr"), row_name("test", "test/seg/iou")
    ('test_psnr', 'test_seg_iou')
    """
    bare = re.sub(rf"^({'test' if part == 'test' else 'validation|valid|val'})[_/.\- ]", "", logged)
    return f"{part}_{re.sub(r'[^0-9A-Za-z_]', '_', bare)}"


def number(value: Any) -> float | None:
    """A logged value to seven digits, the precision of float32; None if it is not finite."""
    found = float(value)
    return float(f"{found:.7g}") if math.isfinite(found) else None
