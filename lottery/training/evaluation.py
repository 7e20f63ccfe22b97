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
"""at most so many inputs at a time, of so many values together: large pictures would fill the memory"""


def evaluate(module: Module, data: Data, part: str) -> dict[str, Any]:
    """Mean loss and every metric over `train`, `val` or `test`, in evaluation mode; leaves the module training.

    A metric that is no finite number, as R2 of constant predictions, is None: it must not end a chain of rounds whose
    loss is sound, and neither JSON nor a mean has room for it. Each rank looks at its share, and all come to the same
    values.
    """
    metrics = {name: metric.to(module.device) for name, metric in module.metrics().items()}
    total = torch.zeros(2, dtype=torch.float64, device=module.device)  # of losses and of examples
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
    """Seven digits, all that is known of a value in float32, as torchmetrics computes."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def batch(shape: Sequence[int]) -> int:
    """How many inputs of a shape are evaluated at a time.

    >>> batch([1, 28, 28]), batch([3, 224, 224])
    (2000, 27)
    """
    return max(1, min(BATCH, VALUES // math.prod(shape)))
