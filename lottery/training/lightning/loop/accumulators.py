"""What Lightning accumulates in an epoch, and has in no checkpoint: states of metrics, means of `self.log`, values.

After a resume in the middle of an epoch its training metrics, and a scheduler that monitors one, would know the epoch's
second part only. What else is in no checkpoint, of the module and its data: `unsaved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric


def taken(trainer: pl.Trainer, pending: Mapping[str, Any], between_epochs: bool) -> dict[str, Any]:
    """All of it, as tensors and plain data; `pending` are means of this epoch that `add` has not met yet."""
    metrics = {
        path: {"count": metric._update_count, "states": {name: getattr(metric, name) for name in metric._defaults}}
        for path, metric in _metrics(trainer.lightning_module).items()
    }
    begun = {
        key: [item.value.detach().clone(), getattr(item, "cumulated_batch_size", None)]
        for key, item in _results(trainer).items()
        if item.meta.on_epoch and item.is_tensor
    }
    return {
        "metrics": metrics,
        "means": {} if between_epochs else {**pending, **begun},
        # Lightning's own dictionary is of the batch before, unless someone has asked for it since
        "logged": dict(trainer._logger_connector._callback_metrics if between_epochs else trainer.callback_metrics),
    }


def restore(trainer: pl.Trainer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Puts it back; returns the means, which exist only once something is logged: see `add`."""
    trainer._logger_connector._callback_metrics.update(saved["logged"])
    for path, metric in _metrics(trainer.lightning_module).items():
        for name, value in saved["metrics"].get(path, {}).get("states", {}).items():
            setattr(metric, name, _on(value, metric.device))
        metric._update_count = saved["metrics"].get(path, {}).get("count", 0)
    return dict(saved["means"])


def add(trainer: pl.Trainer, means: dict[str, Any]) -> None:
    """Moves means of the epoch's first part into those that its second part has begun."""
    for key, item in _results(trainer).items():
        if key in means and item.meta.on_epoch and item.is_tensor:
            value, size = means.pop(key)
            value = value.to(item.value.device)
            if item.meta.is_mean_reduction:
                item.value, item.cumulated_batch_size = item.value + value, item.cumulated_batch_size + size
            elif item.meta.is_sum_reduction:
                item.value = item.value + value
            else:
                item.value = (torch.maximum if item.meta.is_max_reduction else torch.minimum)(item.value, value)


def names(trainer: pl.Trainer) -> set[str]:
    """The names under which training logs, as schedulers may monitor them."""
    bare = {item.meta.name for item in _results(trainer).values()}
    return bare | {f"{name}_{how}" for name in bare for how in ("step", "epoch")}


def _metrics(module: pl.LightningModule) -> dict[str, Metric]:
    return {path: part for path, part in module.named_modules() if isinstance(part, Metric)}


def _results(trainer: pl.Trainer) -> Mapping[str, Any]:
    return trainer.fit_loop.epoch_loop._results


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else [each.to(device) for each in value]
