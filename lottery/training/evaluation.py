"""Evaluation: the mean loss and the metrics of a module over one part of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lottery.data.examples import Data
from lottery.training import ranks
from lottery.training.modules import Module

BATCH, VALUES = 2000, 2**22
"""The most inputs in a batch, and the most values in all of them: large images would fill the memory."""


def evaluate(module: Module, data: Data, part: str) -> dict[str, Any]:
    """Mean loss and every metric over `train`, `val` or `test`, in evaluation mode; leaves the module in training mode.

    A metric that is not finite, such as R2 of constant predictions, becomes None: it must not end a chain of rounds
    whose loss is sound, and JSON has no number for it. Each rank evaluates its share of the examples, and all return
    the same values.
    """
    metrics = {name: metric.to(module.device) for name, metric in module.metrics().items()}
    total = torch.zeros(2, dtype=torch.float64, device=module.device)  # sum of losses, number of examples
    module.eval()
    with torch.inference_mode(), module.trainer.precision_plugin.val_step_context():
        for inputs, targets in data.evaluation(part, batch(data.shape), ranks.share()):
            outputs = module(inputs)
            total[0] += module.loss(outputs, targets).double() * len(inputs)
            total[1] += len(inputs)
            for metric in metrics.values():
                metric.update(outputs, targets)
    module.train()
    ranks.sum_(total)
    values = {name: _digits(float(metric.compute())) for name, metric in metrics.items()}
    return {"loss": float(total[0] / total[1])} | values


def _digits(value: float) -> float | None:
    """A value to seven digits, the precision of the float32 in which torchmetrics computes; None if not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def batch(shape: Sequence[int]) -> int:
    """How many inputs of a shape are evaluated at a time.

    >>> batch([1, 28, 28]), batch([3, 224, 224])
    (2000, 27)
    """
    return max(1, min(BATCH, VALUES // math.prod(shape)))
