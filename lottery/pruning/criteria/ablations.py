"""Criteria made from another criterion: rescaled by layer; turned over or corrupted, to find out if scores matter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lottery.pruning.contracts import Batch, Criterion, Evidence, Scores
from lottery.pruning.criteria.units import rows


def inverted(evidence: Evidence, of: Criterion) -> Scores:
    """Keeps the lowest scores of another criterion, which ought to do worse than the highest (Frankle et al. 2021).

    Raises what `of` raises.
    """
    return {name: -values for name, values in _scores(of, evidence).items()}


def normalised(evidence: Evidence, of: Criterion) -> Scores:
    """The scores of another criterion over their 2-norm in each layer, so that layers compare (Molchanov et al. 2016).

    The norm is that of the layer's units (neurons, filters), each with the mean score of its unpruned weights. Raises
    what `of` raises.
    """
    scores = _scores(of, evidence)
    matrices, living = rows(scores, evidence), rows(evidence.masks, evidence)
    found = {}
    for name, matrix in matrices.items():
        units = (matrix.double() * living[name]).sum(1) / living[name].sum(1).clamp(min=1)
        found[name] = (scores[name].double() / units.norm().clamp(min=torch.finfo(units.dtype).tiny)).to(
            scores[name].dtype
        )
    return found


def corrupted(evidence: Evidence, of: Criterion, data: str) -> Scores:
    """The scores of another criterion on corrupted data, which ought to be of less use (Su et al. 2020).

    `random_labels`: those of each batch change places; `shuffled_pixels`: the numbers of each example change places, in
    an order of its own; `half`: the first half of each batch. Training has the data as they are. Raises ValueError for
    another name and for batches that are no pairs of tensors, and what `of` raises.
    """
    if data not in _CORRUPTIONS:
        raise ValueError(f"data={data}: must be {', '.join(_CORRUPTIONS)}")
    seed = int(torch.randint(2**62, (), generator=evidence.rng))
    return _scores(of, replace(evidence, batches=_Corrupted(evidence.batches, _CORRUPTIONS[data], seed)))


Pair = tuple[Tensor, Tensor]


def _random_labels(inputs: Tensor, targets: Tensor, rng: torch.Generator) -> Pair:
    return inputs, targets[torch.randperm(len(targets), generator=rng).to(targets.device)]


def _shuffled_pixels(inputs: Tensor, targets: Tensor, rng: torch.Generator) -> Pair:
    rows = inputs.flatten(1)
    places = torch.rand(rows.shape, generator=rng).argsort(1).to(rows.device)
    return rows.gather(1, places).view_as(inputs), targets


def _half(inputs: Tensor, targets: Tensor, rng: torch.Generator) -> Pair:
    count = (len(targets) + 1) // 2
    return inputs[:count], targets[:count]


_CORRUPTIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Pair]] = {
    "random_labels": _random_labels,
    "shuffled_pixels": _shuffled_pixels,
    "half": _half,
}


@dataclass(frozen=True)
class _Corrupted:
    """Batches that are corrupted in the same way whenever they are read, as GraSP reads them twice."""

    batches: Iterable[Batch]
    change: Callable[[Tensor, Tensor, torch.Generator], Pair]
    seed: int

    def __iter__(self) -> Iterator[Pair]:
        rng = torch.Generator().manual_seed(self.seed)
        for batch in self.batches:
            if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(map(torch.is_tensor, batch))):
                raise ValueError(
                    f"only pairs (inputs, targets) of tensors can be corrupted, not a {type(batch).__name__}"
                )
            inputs, targets = batch
            yield self.change(inputs, targets, rng)


def _scores(of: Criterion, evidence: Evidence) -> Scores:
    try:
        return of(evidence)
    except ValueError as error:
        if re.match(r"\w+=", str(error)):  # about an argument of `of`, whose key is one level deeper
            raise type(error)(f"of.{error}") from error
        raise
