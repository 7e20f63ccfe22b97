"""The batches of an epoch, as a user's sampler draws them, as a function of a seed and the epoch."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lottery.data.examples import DataError
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all

REMEMBER_NOTHING = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers of PyTorch, whose epochs are functions of a generator."""


class EpochBatches:
    """A batch sampler whose epoch is drawn whole, under a seed of that epoch, and can then be entered anywhere.

    A sampler of a user's may count its epochs or draw from a source of its own. It is left as it is: a twin of it draws
    every epoch once, from the first one on. All ranks draw the same epoch, and each yields its share of every batch.
    """

    def __init__(self, inner: Any, generator: torch.Generator | None, seed: int, share: tuple[int, int]) -> None:
        self.inner, self.generator, self.seed, self.share = inner, generator, seed, share
        self.epoch, self.begin = 0, 0
        self.parts: list[float] = []
        """this rank's part of each batch of the epoch, in (0, 1]"""
        self.remembers = type(inner) is not BatchSampler or type(inner.sampler) not in REMEMBER_NOTHING
        self.twin, self.drawn = inner, 0
        self.seen = _settings(inner)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it on samplers only, not on batch samplers: whoever trains calls it."""
        if not any(hasattr(part, "set_epoch") for part in _parts(self.inner)):  # which Lightning has called already
            self._check()
        self.epoch = epoch
        _set_epoch(self.inner, epoch)
        self.seen = _settings(self.inner)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list[Any]]:
        self._check()
        batches = self._drawn()
        begin, self.begin = self.begin, 0
        if self.share[1] > 1:
            shares = [shared(list(batch), self.share) for batch in batches]
            self.parts = [len(share) / len(batch) for share, batch in zip(shares, batches, strict=True)]
            batches = shares
        for number, batch in enumerate(batches[begin:], begin):
            yield [(self.epoch, number), *batch]

    def _drawn(self) -> list[Any]:
        if not self.remembers:
            return self._draw(self.epoch)
        if not self.drawn or self.drawn > self.epoch:
            self.twin, self.drawn = twin_of(self.inner), 0
        for epoch in range(self.drawn, self.epoch + 1):
            _set_epoch(self.twin, epoch)
            batches = self._draw(epoch)
        self.drawn = self.epoch + 1
        return batches

    def _draw(self, epoch: int) -> list[Any]:
        seed = derive(self.seed, "epoch", epoch)
        seed_all(seed)
        sampler = getattr(self.twin, "sampler", None)
        own = (self.generator, getattr(self.twin, "generator", None), getattr(sampler, "generator", None))
        for generator in own:
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        return list(self.twin)

    def _check(self) -> None:
        """Raises Refused if anyone but Lightning has set something of the sampler since it was seen last."""
        for at, value in _settings(self.inner).items():
            if (before := self.seen.get(at)) is not None and not _equal(before, value):
                raise Refused(
                    f"model: a hook changes {at.rpartition('.')[2]} of the training data's "
                    f"{type(self.inner).__name__}, which no resume would bring back; a sampler may change with "
                    "set_epoch(epoch), which is called before each epoch"
                )


def shared(batch: Sequence[Any], share: tuple[int, int]) -> Sequence[Any]:
    """A rank's share of a batch: all of them, one after the other, are the batch. Raises DataError for an empty one.

    >>> [list(shared(range(7), (rank, 3))) for rank in range(3)]
    [[0, 1], [2, 3], [4, 5, 6]]
    """
    rank, of = share
    if len(batch) < of:
        raise DataError(f"data: a training batch has {len(batch)} examples, too few for hardware.devices={of}")
    return batch[len(batch) * rank // of : len(batch) * (rank + 1) // of]


_COPIED = random.Random | np.random.Generator | np.random.RandomState | Tensor | np.ndarray


def twin_of(sampler: Any) -> Any:
    """A sampler that draws as this one would, without moving it; data sets and all else large are those of both.

    >>> one = RandomSampler(range(3), generator=torch.Generator().manual_seed(0))
    >>> list(twin_of(one)) == list(twin_of(one)), twin_of(one).data_source is one.data_source
    (True, True)
    """
    return _twin(sampler, {})


def _twin(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, torch.Generator):
        found: Any = torch.Generator(value.device)
        found.set_state(value.get_state())
    elif isinstance(value, _COPIED):
        found = copy.deepcopy(value)
    elif type(value) in (list, set, tuple):
        found = type(value)(_twin(item, done) for item in value)
    elif isinstance(value, dict):
        found = copy.copy(value)
        for key, item in value.items():
            found[key] = _twin(item, done)
    elif isinstance(value, Sampler) or not done:  # what DataLoader takes for one need not be a Sampler
        found = done[id(value)] = copy.copy(value)
        for name, item in getattr(value, "__dict__", {}).items():
            found.__dict__[name] = _twin(item, done)
    else:
        return value
    done[id(value)] = found
    return found


def _set_epoch(batches: Any, epoch: int) -> None:
    for part in _parts(batches):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def _parts(batches: Any) -> list[Any]:
    return [part for part in (batches, getattr(batches, "sampler", None)) if part is not None]


def _settings(batches: Any) -> dict[str, Any]:
    """Copies of the numbers, text and tensors of a batch sampler and its sampler, by place."""
    kinds, found = int | float | str | Tensor | np.ndarray, dict[str, Any]()
    for at, part in zip(("", "sampler."), _parts(batches), strict=False):
        own = getattr(part, "__dict__", {})
        found |= {f"{at}{name}": copy.deepcopy(value) for name, value in own.items() if isinstance(value, kinds)}
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        return type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other)
