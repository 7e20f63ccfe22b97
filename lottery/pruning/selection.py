"""Top-k selection over many tensors without concatenating them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

_CHUNK = 2**18  # scores read at a time, so that they and temporary results fit into the CPU cache
_SLACK = 3  # half the bracket's width, in square roots of the sample size: at least six standard deviations of a rank


def best(scores: Sequence[Tensor], alive: Sequence[Tensor], count: int) -> list[Tensor]:
    """Marks the `count` highest scores among unpruned weights, or all if there are fewer; the first wins a tie.

    The tensors are ranked together, in their order. Besides the marks it needs memory of order n^(2/3) for n scores.

    >>> best([torch.tensor([3.0, 1.0]), torch.tensor([2.0, 3.0])], [torch.tensor([True, True])] * 2, 2)
    [tensor([ True, False]), tensor([False,  True])]
    """
    living = sum(int(lives.count_nonzero()) for lives in alive)
    if count >= living:
        return [lives.clone() for lives in alive]
    marks = [torch.zeros(lives.shape, dtype=torch.bool) for lives in alive]
    if count == 0:
        return marks
    dtype = reduce(torch.promote_types, (values.dtype for values in scores))
    scores = [values.to(dtype) for values in scores]
    threshold, ties = _threshold(scores, alive, living, count)
    for values, lives, kept in _chunks(scores, alive, marks):
        kept.copy_(lives & (values > threshold))
        if ties:
            first = _places(lives & (values == threshold))[:ties]
            kept[first] = True
            ties -= len(first)
    return marks


def best_by_row(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Marks `count` unpruned weights, or all if there are fewer: the best of every row, then every second best, ...

    A row is one index of the first dimension; a tensor of one dimension is one row. Where only some rows can have one
    more, those do whose next weight scores highest; the first wins a tie.

    >>> best_by_row(torch.tensor([[9.0, 8.0, 7.0], [1.0, 3.0, 2.0]]), torch.ones(2, 3, dtype=torch.bool), 3)
    tensor([[ True,  True, False],
            [False,  True, False]])
    """
    if alive.ndim < 2 or not alive.numel():
        return best([scores], [alive], count)[0]
    # in order of (alive, score, position); scores are finite
    order = scores.masked_fill(~alive, -math.inf).flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order)).view_as(alive)
    filled = ranks[alive].bincount(minlength=1).cumsum(0)
    whole = int((filled <= count).count_nonzero())
    left = count - (int(filled[whole - 1]) if whole else 0)
    return alive & (ranks < whole) | best([scores], [alive & (ranks == whole)], left)[0]


def _threshold(scores: Sequence[Tensor], alive: Sequence[Tensor], living: int, count: int) -> tuple[float, int]:
    """The `count`-th highest score among unpruned weights, and how many scores equal to it are to be marked.

    After Floyd and Rivest (1975): a random sample gives a lower and an upper bound, all scores are counted against
    both, and only the few in between are ranked. If the threshold lies outside, once in 10^8 calls, the bounds are
    widened.
    """
    sample = _sample(scores, alive).sort(descending=True).values
    middle, slack = count / living * len(sample), _SLACK * math.sqrt(len(sample)) + 1
    while True:
        first, last = math.floor(middle - slack), math.ceil(middle + slack)
        high = float(sample[first]) if first >= 0 else math.inf
        low = float(sample[last]) if last < len(sample) else -math.inf
        above, reached = _count(scores, alive, (torch.ge, high), (torch.gt, low))
        if above < count <= reached:
            between = _between(scores, alive, low, high, reached - above)
            threshold = float(between.kthvalue(reached - count + 1).values)
            return threshold, count - above - int((between > threshold).count_nonzero())
        edge = high if count <= above else low
        above, reached = _count(scores, alive, (torch.gt, edge), (torch.ge, edge))
        if above < count <= reached:
            return edge, count - above
        slack *= 2


def _sample(scores: Sequence[Tensor], alive: Sequence[Tensor]) -> Tensor:
    """The unpruned among n^(2/3) randomly drawn scores; the draw affects the running time, not the result."""
    rng = torch.Generator().manual_seed(0)
    share = sum(values.numel() for values in scores) ** (-1 / 3)
    drawn = []
    for values, lives in zip(scores, alive, strict=True):
        places = torch.randint(max(values.numel(), 1), (math.ceil(share * values.numel()),), generator=rng)
        drawn.append(values.reshape(-1)[places][lives.reshape(-1)[places]])
    return torch.cat(drawn)


def _between(scores: Sequence[Tensor], alive: Sequence[Tensor], low: float, high: float, count: int) -> Tensor:
    """The `count` scores of unpruned weights strictly between two bounds."""
    # Written into a preallocated tensor: many small tensors between large temporary ones would fragment the heap, up to
    # twice the memory of all scores.
    found, filled = torch.empty(count, dtype=scores[0].dtype), 0
    for values, lives in _chunks(scores, alive):
        some = values.take(_places(lives & (values < high) & (values > low)))
        found[filled : filled + len(some)] = some
        filled += len(some)
    return found


def _places(mask: Tensor) -> Tensor:
    """Indices of the true entries; for sparse masks numpy takes a third of PyTorch's time."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _count(
    scores: Sequence[Tensor], alive: Sequence[Tensor], *bounds: tuple[Callable[..., Tensor], float]
) -> list[int]:
    """The number of scores of unpruned weights for which each comparison holds."""
    counts = [0] * len(bounds)
    for values, lives in _chunks(scores, alive):
        for index, (compare, bound) in enumerate(bounds):
            counts[index] += int((lives & compare(values, bound)).count_nonzero())
    return counts


def _chunks(*groups: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Iterates over the tensors of several groups in parallel, flattened and in chunks."""
    for tensors in zip(*groups, strict=True):
        yield from zip(*(tensor.reshape(-1).split(_CHUNK) for tensor in tensors), strict=True)
