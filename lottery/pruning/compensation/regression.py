"""Compensations that fit the survivors to what their layer computed before, on calibration data."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from lottery.pruning.compensation.biases import intercepts, shifted
from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.compensation.inputs import layers, matrix, rows

DAMPING = 1e-4
"""share of the mean of the diagonal that is added to it, so that inputs that never vary can be inverted"""
BLOCK = 128
"""columns that are pruned before those behind them are updated, in one product"""
SIDE = 256
"""columns of a symmetric product that are computed at once"""


def least_squares(pruned: Pruned, batches: int = 16, damping: float = DAMPING) -> dict[str, Tensor]:
    """The weights and bias that come closest to the layer's former outputs (He et al. 2017), the exact solution.

    Inputs are those of the network before pruning. Outputs of a layer that keep the same inputs, as where channels are
    removed, are solved together. Damping pulls towards the former weights, not towards zero. The bias may be the
    running mean of the BatchNorm behind it; a layer with neither, or with a frozen bias and no BatchNorm, is fitted
    without. Of a frozen weight nothing is refitted but the bias, as in `mean`. Raises ValueError for damping that
    is not positive, and for fewer than one batch.
    """
    _positive(damping)
    free = intercepts(pruned)
    found: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for name, (mean, covariance) in _moments(pruned, batches).items():
        layer, weight = layers(pruned)[name], pruned.weights[name]
        before = matrix(layer, weight.double())
        kept = matrix(layer, pruned.masks[name].to(weight.device))
        moments = covariance if name in free else covariance + _outer(mean)
        if name in pruned.frozen:
            after = before * kept
        else:
            after = torch.stack([_refitted(*each, damping) for each in zip(before, kept, moments, strict=True)])
            found[name] = after.view(weight.shape).to(weight.dtype)
        shifts[name] = (before - after) @ mean[..., None]  # the exact intercept of a regression
    return found | shifted(pruned, shifts)


def obs(pruned: Pruned, batches: int = 16, damping: float = 1e-2) -> dict[str, Tensor]:
    """Weights are pruned column by column, and those after it make up (OBS, Hassibi & Stork 1992; SparseGPT 2023).

    The Hessian is that of the layer's squared error on the inputs before pruning, with the damping of Frantar &
    Alistarh (2023). Columns before it stay as they are. Raises ValueError for damping that is not
    positive, and for fewer than one batch.
    """
    _positive(damping)
    found: dict[str, Tensor] = {}
    for name, (mean, covariance) in _moments(pruned, batches).items():
        layer, weight = layers(pruned)[name], pruned.weights[name]
        after = matrix(layer, weight.double()).clone()
        kept = matrix(layer, pruned.masks[name].to(weight.device))
        hessian = covariance + _outer(mean)
        for group, keep, of_group in zip(after, kept, hessian, strict=True):
            _swept(group, keep, of_group, damping)
        found[name] = (after * kept).view(weight.shape).to(weight.dtype)
    return found


def _moments(pruned: Pruned, batches: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and covariance of each layer's inputs over the first batches, by group, in float64."""
    counts: Counter[str] = Counter()
    origins, totals, squares = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for batch in rows(pruned, batches):
        for name, given in batch.items():
            if name not in origins:
                origins[name] = given.mean(1, keepdim=True)
                totals[name] = torch.zeros_like(origins[name].squeeze(1), dtype=torch.float64)
                squares[name] = totals[name].new_zeros(*totals[name].shape, given.shape[-1])
            # squares of what is left of a first mean, since large means would cancel in the inputs' own precision
            left = given - origins[name]
            counts[name] += left.shape[1]
            totals[name] += left.sum(1, dtype=torch.float64)
            _add_squares_(squares[name], left)
    found = {}
    for name, origin in origins.items():
        mean, whole = totals[name] / counts[name], squares[name].triu() + squares[name].triu(1).mT
        found[name] = origin.squeeze(1).double() + mean, whole / counts[name] - _outer(mean)
    return found


def _add_squares_(squares: Tensor, left: Tensor) -> None:
    """Adds `left.mT @ left` on one side of the diagonal, where it is symmetric: half of the work."""
    for begin in range(0, left.shape[-1], SIDE):
        end = begin + SIDE
        squares[..., begin:end, begin:] += left[..., begin:end].mT @ left[..., begin:]


def _outer(vectors: Tensor) -> Tensor:
    return vectors[..., :, None] * vectors[..., None, :]


def _swept(weight: Tensor, kept: Tensor, hessian: Tensor, damping: float) -> None:
    """Prunes a matrix in place, column after column; what a column loses goes to those after it."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(hessian, damping)))
    factor = torch.linalg.cholesky(inverse, upper=True)  # its row j is what the columns after j take over of column j
    for begin in range(0, weight.shape[1], BLOCK):
        end = min(begin + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, begin:end])
        for column in range(begin, end):
            error = weight[:, column] * ~kept[:, column] / factor[column, column]
            weight[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - begin] = error
        weight[:, end:] -= errors @ factor[begin:end, end:]


def _refitted(before: Tensor, kept: Tensor, covariance: Tensor, damping: float) -> Tensor:
    """The kept weights whose outputs vary most like those of all weights before; zeros elsewhere."""
    after = torch.zeros_like(before)
    damped = _damped(covariance, damping)
    patterns, which = kept.unique(dim=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        those, lost = which == index, ~pattern
        # w_kept + C_kk^-1 C_kl w_lost: for inputs that are independent of what is lost, the weights as they were
        taken = torch.linalg.solve(damped[pattern][:, pattern], covariance[pattern][:, lost] @ before[those][:, lost].T)
        after[those.nonzero(), pattern.nonzero().T] = before[those][:, pattern] + taken.T
    return after


def _damped(matrix: Tensor, damping: float) -> Tensor:
    diagonal = matrix.diagonal()
    added = damping * diagonal.mean() if diagonal.any() else 1.0
    return matrix + added * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _positive(damping: float) -> None:
    if not damping > 0:
        raise ValueError(f"compensation.damping={damping}: must be above 0")
