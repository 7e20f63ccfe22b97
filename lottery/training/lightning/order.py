"""The order of a project's training data and what is drawn for it: functions of a seed, the epoch and the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lottery.data.examples import DataError
from lottery.foundations.seeds import derive
from lottery.training import ranks


def seed_all(seed: int) -> None:
    """Seeds the global generators of torch, numpy and Python, before every batch.

    Before CUDA is initialised, `torch.manual_seed` notes a stack trace for each kind of device: a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def ordered(loader: Any, seed: int, share: tuple[int, int] = (0, 1)) -> Ordered | FromStart:
    """The loader with its order and augmentations as functions of `seed`.

    `share` = (rank, number of ranks) selects one of nearly equal parts of each batch, which `check_shares` has found to
    be possible.
    """
    if enters_anywhere(loader):
        return Ordered(loader, seed, share)
    return FromStart(loader, seed)


def enters_anywhere(loader: Any) -> bool:
    """Whether a training on this loader can go on in the middle of an epoch without reading what came before.

    It can for every batch sampler over a map-style data set.
    """
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )


class EpochBatches:
    """A batch sampler whose epoch is drawn whole, under a seed of that epoch, and can then be entered anywhere.

    All ranks draw the same epoch, and each yields its share of every batch.
    """

    def __init__(self, inner: Any, generators: Sequence[torch.Generator], seed: int, share: tuple[int, int]) -> None:
        self.inner, self.generators, self.seed, self.share = inner, generators, seed, share
        self.epoch, self.begin = 0, 0
        self.parts: list[float] = []
        """this rank's part of each batch of the epoch, in (0, 1]"""

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it on samplers only, not on batch samplers: whoever trains calls it."""
        self.epoch = epoch
        for part in (self.inner, getattr(self.inner, "sampler", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list[Any]]:
        seed = derive(self.seed, "epoch", self.epoch)
        seed_all(seed)
        for generator in self.generators:
            generator.manual_seed(seed)
        batches = list(self.inner)
        begin, self.begin = self.begin, 0
        if self.share[1] > 1:
            shares = [shared(list(batch), self.share) for batch in batches]
            self.parts = [len(share) / len(batch) for share, batch in zip(shares, batches, strict=True)]
            batches = shares
        for number, batch in enumerate(batches[begin:], begin):
            yield [(self.epoch, number), *batch]


def shared(batch: Sequence[Any], share: tuple[int, int]) -> Sequence[Any]:
    """A rank's share of a batch: all of them, one after the other, are the batch. Raises DataError for an empty one.

    >>> [list(shared(range(7), (rank, 3))) for rank in range(3)]
    [[0, 1], [2, 3], [4, 5, 6]]
    """
    rank, of = share
    if len(batch) < of:
        raise DataError(f"data: a training batch has {len(batch)} examples, too few for hardware.devices={of}")
    return batch[len(batch) * rank // of : len(batch) * (rank + 1) // of]


class Augmented(Dataset):
    """A data set that is seeded once a batch, in whichever worker draws it, so that no number depends on workers."""

    def __init__(self, inner: Any, seed: int, rank: int) -> None:
        self.inner, self.seed, self.rank = inner, seed, rank

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:  # a collate function or a hook may look at the data set
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        (epoch, number), *indices = keys
        seed_all(derive(self.seed, "batch", epoch, number, *ranks.stream(self.rank)))
        if hasattr(self.inner, "__getitems__"):
            return self.inner.__getitems__(indices)
        return [self.inner[index] for index in indices]


class Ordered(DataLoader):
    """A loader that Lightning can resume in the middle of an epoch: it asks for `state_dict` and `load_state_dict`."""

    def __init__(self, loader: DataLoader, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        generators = [loader.generator, getattr(loader.sampler, "generator", None)]
        generators.append(getattr(getattr(loader.batch_sampler, "sampler", None), "generator", None))
        own = [each for each in dict.fromkeys(generators) if each is not None]
        self._batches = EpochBatches(loader.batch_sampler, own, seed, share)
        super().__init__(
            Augmented(loader.dataset, seed, share[0]),
            batch_sampler=self._batches,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)

    def part(self, number: int) -> float:
        """This rank's part of a batch of the epoch; of loaders that take turns, all batches are shared equally."""
        parts = self._batches.parts
        return parts[number] if number < len(parts) else 1 / self._batches.share[1]

    def state_dict(self) -> dict[str, int]:
        return {}  # Lightning asks for one; `Guide` knows how many batches were trained

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._batches.epoch, self._batches.begin = state["epoch"], state["done"] % max(1, len(self))


class FromStart:
    """Any other iterable, such as one over a stream: seeded at each batch, and entered by reading what comes before."""

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed, self.epoch, self.begin = loader, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if (dataset := getattr(self.loader, "dataset", None)) is not None and hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)

    def part(self, number: int) -> float:
        return 1.0  # see `check_shares`

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        begin, self.begin = self.begin, 0
        seed_all(derive(self.seed, "epoch", self.epoch))
        if isinstance(generator := getattr(self.loader, "generator", None), torch.Generator):
            generator.manual_seed(derive(self.seed, "epoch", self.epoch))
        batches = iter(self.loader)
        for number in count():
            seed_all(derive(self.seed, "batch", self.epoch, number))  # a stream may draw as it is read
            try:
                batch = next(batches)
            except StopIteration:
                return
            if number >= begin:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {}  # see `Ordered`

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.set_epoch(state["epoch"])
        self.begin = state["done"]
