"""Structures: which weights are pruned together. Any scope chooses among such groups, as it would among weights.

A structure pools the scores of each group and hands them to the scope with masks of the groups in which a weight lives.
A group that is pruned stays pruned, so that each round chooses among those that live. A scope takes a layer of groups
for a layer of as many weights: densities are shares of groups, and one that looks at shapes (erk, isomorphic,
per_output) sees those of the groups.

Outputs are the first dimension of a weight and inputs the second, as of linear layers and convolutions. Of a transposed
convolution it is the other way round, and the outputs of an embedding are its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lottery.pruning.contracts import Scope, Scores, Target, checked
from lottery.pruning.masks import Masks, kept
from lottery.pruning.pools import POOLS, check_pool, pooled


def weights(scope: Scope, scores: Scores, masks: Masks, target: Target) -> Masks:
    """Each weight by itself, as without a structure."""
    return scope(scores, masks, target)


def blocks(
    scope: Scope, scores: Scores, masks: Masks, target: Target, shape: Sequence[int] = (4, 4), pool: str = "mean"
) -> Masks:
    """Blocks of `shape` of the weight as a matrix, outputs by all else (inputs, then positions of a kernel).

    A block scores the mean, sum, max or 2-norm (`norm`) of its unpruned weights. Blocks have one size, so that the
    density of blocks is that of weights. Raises ValueError where blocks don't divide a layer, or for a shape or pool
    that is none.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"structure.shape={list(shape)}: must be two whole numbers, 1 or more")
    high, wide = shape
    sizes = {name: tuple(_matrix(mask).shape) for name, mask in masks.items()}
    _fits(
        f"structure.shape={list(shape)}: does not divide",
        {name: f"{name}, {rows} x {row} weights" for name, (rows, row) in sizes.items() if rows % high or row % wide},
    )

    def grid(tensor: Tensor) -> Tensor:
        matrix = _matrix(tensor)
        rows, row = matrix.shape
        return matrix.view(rows // high, high, row // wide, wide).transpose(1, 2)

    return _together(scope, scores, masks, target, grid, 2, pool)


def rows(scope: Scope, scores: Scores, masks: Masks, target: Target, pool: str = "mean") -> Masks:
    """All weights of one output together: neurons, or filters of a convolution. The density is a share of rows.

    A row scores the mean, sum, max or 2-norm (`norm`) of its unpruned weights. Biases and what follows the output stay.
    Raises ValueError for a pool that is none.
    """
    return _together(scope, scores, masks, target, _matrix, 1, pool)


def columns(scope: Scope, scores: Scores, masks: Masks, target: Target, pool: str = "mean") -> Masks:
    """All weights of one input together, for a convolution one input channel. The density is a share of columns.

    Raises ValueError for a parameter of one dimension, which has no inputs, and for a pool that is none.
    """
    _have_inputs(masks)
    return _together(scope, scores, masks, target, lambda tensor: tensor.transpose(0, 1), 1, pool)


def n_of_m(scope: Scope, scores: Scores, masks: Masks, target: Target, n: int = 2, m: int = 4) -> Masks:
    """At most `n` of each `m` successive weights along the inputs live (Zhou et al. 2021).

    Those of a convolution succeed one another at each position of its kernel. The scope chooses among the `n` best of
    each group that are unpruned; at density n / m all of them live. A layer that the scope spares is n of m all the
    same; `prune.exclude` leaves it whole.

    Raises ValueError if the density asked for exceeds n / m, if `m` does not divide the inputs of a layer, or for an
    `n` or `m` that can't be.
    """
    if not 1 <= n <= m:
        raise ValueError(f"structure.n={n}: must lie between 1 and structure.m={m}")
    _have_inputs(masks)
    _fits(
        f"structure.m={m}: does not divide the inputs of",
        {name: f"{name}, {mask.shape[1]}" for name, mask in masks.items() if mask.shape[1] % m},
    )
    if target.density > n / m + 1e-9:
        raise ValueError(
            f"structure.n={n}: {n} of {m} weights have a density of {n / m:g} at most, and "
            f"{target.density:g} is asked for (by the schedule, or by arm.during.initial)"
        )
    candidates = {name: _best_of_groups(scores[name], mask, n, m) for name, mask in masks.items()}
    # the share of what is alive that a scope such as `rates` keeps is meant of all, and not of the candidates alone
    keep = min(1.0, target.keep * kept(masks) / max(1, kept(candidates)))
    return scope(scores, candidates, replace(target, keep=keep))


def _together(
    scope: Scope,
    scores: Scores,
    masks: Masks,
    target: Target,
    grid: Callable[[Tensor], Tensor],
    dims: int,
    pool: str,
) -> Masks:
    """Lets a scope choose groups; `grid` views a tensor with its groups in the first `dims` dimensions."""
    check_pool(pool, POOLS)

    def grouped(tensor: Tensor) -> Tensor:
        return grid(tensor.contiguous()).flatten(dims)

    alive = {name: grouped(mask).any(-1) for name, mask in masks.items()}
    scored = {name: pooled(grouped(scores[name]), grouped(mask), pool) for name, mask in masks.items()}
    chosen = checked(scope(scored, {name: mask.clone() for name, mask in alive.items()}, target), like=alive)
    found = {}
    for name, mask in masks.items():
        found[name] = torch.zeros(mask.shape, dtype=torch.bool)
        view = grid(found[name])
        view.copy_(chosen[name].reshape(*chosen[name].shape, *[1] * (view.ndim - dims)).expand_as(view))
        found[name] &= mask
    return found


def _best_of_groups(scores: Tensor, alive: Tensor, n: int, m: int) -> Tensor:
    """Marks the `n` best unpruned weights of each `m` successive ones along the inputs; the first wins a tie."""

    def groups(tensor: Tensor) -> Tensor:
        return tensor.movedim(1, -1).unflatten(-1, (tensor.shape[1] // m, m))

    lives = groups(alive)
    order = groups(scores).masked_fill(~lives, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    found = torch.zeros(alive.shape, dtype=torch.bool)
    marks = torch.zeros(lives.shape, dtype=torch.bool).scatter_(-1, order[..., :n], True) & lives
    groups(found).copy_(marks)
    return found


def _matrix(tensor: Tensor) -> Tensor:
    """A weight as a matrix: outputs by all else."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(-1, 1)


def _have_inputs(masks: Masks) -> None:
    _fits("structure: there are no inputs to", {name: name for name, mask in masks.items() if mask.ndim < 2})


def _fits(why: str, misfits: dict[str, str]) -> None:
    """Raises ValueError with the first misfit, described, and how to leave all of them out, if there are any."""
    if misfits:
        names = list(misfits)
        out = names[0] if len(names) == 1 else f"[{','.join(names[:8])}{',...' if len(names) > 8 else ''}]"
        whole = "leaves it whole" if len(names) == 1 else f"leaves these {len(names)} whole"
        raise ValueError(f"{why} {misfits[names[0]]}; prune.exclude={out} {whole}")
