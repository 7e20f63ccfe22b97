"""A data set: its three parts, its batches, its digest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from lottery.foundations.digests import digest
from lottery.foundations.errors import Said
from lottery.foundations.seeds import Order, Streams, generator

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""(images (N, C, H, W), a CPU generator) -> images of the same shape and dtype"""

Batches = Generator[tuple[Tensor, Tensor], None, None]
"""Yields (inputs, targets); closing it ends whatever reads ahead."""


class DataError(Said):
    """Data that is missing, damaged or does not fit; the message says what to do."""


class Part(Protocol):
    """Labelled inputs, in memory (Examples) or in files (lottery.data.pictures.Pictures)."""

    @property
    def targets(self) -> Tensor: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Tensor) -> Self: ...

    def to(self, device: torch.device | str) -> Self:
        """The same part, with its batches on a device."""

    def training(self, seed: int, steps: Iterable[tuple[int, Tensor]]) -> Batches:
        """Yields a batch for each (step, indices of examples); the indices are on the device of `targets`."""

    def evaluation(self, first: int, last: int, size: int) -> Batches:
        """Yields the examples `first` to `last` (exclusive) in order, `size` at a time.

        These batches and those of `training` are copies, because a network or a loss may change them in place.
        """

    def content(self) -> Mapping[str, Tensor]:
        """Tensors that identify the part: they are what the digest of the data is made of."""


@dataclass(frozen=True)
class Examples:
    """Inputs (N, ...) and their targets (N, ...)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: Tensor | slice) -> Examples:
        return Examples(self.inputs[chosen], self.targets[chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on a device."""
        return Examples(self.inputs.to(device), self.targets.to(device))

    def training(self, seed: int, steps: Iterable[tuple[int, Tensor]]) -> Batches:
        for _, chosen in steps:
            # index_select is three times as fast as indexing, and a small network's step is short
            yield self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen)

    def evaluation(self, first: int, last: int, size: int) -> Batches:
        for start in range(first, last, size):
            chosen = slice(start, min(start + size, last))
            # a slice is a view, and a network that works in place on it would change all later evaluations
            yield self.inputs[chosen].clone(), self.targets[chosen].clone()

    def content(self) -> Mapping[str, Tensor]:
        return {"inputs": self.inputs, "targets": self.targets}


@dataclass(frozen=True)
class Data:
    """Training, validation and test examples, and how training reads them."""

    train: Part
    val: Part
    test: Part
    batch_size: int
    shape: Sequence[int]
    """shape of one input, for which networks are built: (C, H, W) for images"""
    classes: int | None = None
    """number of classes; None where targets are not class indices"""
    augment: Augmentation | None = None
    """applied to training batches, as they are stored"""
    prepare: Callable[[Tensor], Tensor] | None = None
    """applied to every batch on the device, after `augment`: stored inputs -> inputs of the network"""

    def __post_init__(self) -> None:
        parts = {"train": self.train, "val": self.val, "test": self.test}
        for name, part in parts.items():
            if not len(part):
                raise DataError(f"the {name} split is empty; data.val_size leaves {len(self.train)} training examples")
        if not 1 <= self.batch_size <= len(self.train):
            raise DataError(
                f"data.batch_size={self.batch_size}: must lie between 1 and the {len(self.train)} training examples"
            )
        for name, part in parts.items():
            if part.shape != tuple(self.shape):
                of = "" if name == "train" else f" of the {name} split"
                raise DataError(f"data.shape={list(self.shape)}: the inputs{of} have shape {list(part.shape)}")
        if self.classes is not None:
            labels = torch.cat([part.targets for part in parts.values()])
            if not (labels.min() >= 0 and labels.max() < self.classes):
                found = f"{int(labels.min())} to {int(labels.max())}"
                raise DataError(
                    f"data.classes={self.classes}: the labels run from {found}; "
                    "data.classes=null if they are no classes"
                )
            if (self.train.targets == self.train.targets[0]).all():
                raise DataError(
                    f"data.classes={self.classes}: all {len(self.train)} training examples are of one class, "
                    f"{int(self.train.targets[0])}; there is nothing to learn"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the remainder is left out of this epoch."""
        return len(self.train) // self.batch_size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tensors, or of names, sizes and classes if the inputs are files."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return digest({f"{name}.{key}": value for name, part in parts.items() for key, value in part.content().items()})

    def to(self, device: torch.device | str) -> Data:
        """The same data on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def batches(self, seed: int, first: int, last: int, share: tuple[int, int] = (0, 1)) -> Batches:
        """Yields the training batches of steps `first` to `last` (exclusive): each is a pure function of seed and step.

        `share` = (rank, number of ranks) selects one of equal parts of each batch; concatenated they are the whole one.
        Raises DataError if a batch can't be divided equally.
        """
        rank, of = share
        if self.batch_size % of:
            raise DataError(f"data.batch_size={self.batch_size}: must be a multiple of the {of} processes")
        own = slice(self.batch_size // of * rank, self.batch_size // of * (rank + 1))
        # augmentations get whole batches, so that what they draw does not depend on the number of ranks
        steps = self._steps(seed, first, last, slice(0, self.batch_size) if self.augment else own)
        with closing(self.train.training(seed, steps)) as batches:
            for step, (inputs, targets) in enumerate(batches, first):
                if self.augment:
                    inputs = self.augment(inputs, generator(Order(seed).augment(step)))[own]
                    targets = targets[own]
                yield self.prepare(inputs) if self.prepare else inputs, targets

    def _steps(self, seed: int, first: int, last: int, own: slice) -> Iterator[tuple[int, Tensor]]:
        """Yields each step with the indices of its examples."""
        for step in range(first, last):
            epoch, place = divmod(step, self.steps_per_epoch)
            if step == first or place == 0:
                order = torch.randperm(len(self.train), generator=generator(Order(seed).epoch(epoch)))
                order = order.to(self.train.targets.device)
            start = place * self.batch_size
            yield step, order[start + own.start : start + own.stop]

    def evaluation(self, part: str, size: int, share: tuple[int, int] = (0, 1)) -> Batches:
        """Yields a part in order, `size` examples at a time; the shares of all ranks, concatenated, are the part."""
        examples: Part = {"train": self.train, "val": self.val, "test": self.test}[part]
        rank, of = share
        first, last = (len(examples) * edge // of for edge in (rank, rank + 1))
        with closing(examples.evaluation(first, last, size)) as batches:
            for inputs, targets in batches:
                yield self.prepare(inputs) if self.prepare else inputs, targets


Whole = TypeVar("Whole", bound=Part)


def split(examples: Whole, sizes: Sequence[int], seed: int = 0, settings: Sequence[str] = ()) -> list[Whole]:
    """Cuts shuffled examples into one part of each size and a last part with the rest.

    The shuffle depends on `seed` alone, so that every replicate of a study has the same split.
    Raises DataError if a part is empty or nothing is left over; `settings` are the sizes' keys, for its message.
    """
    if min(sizes) < 1 or sum(sizes) >= len(examples):
        wrong = min(sizes) if min(sizes) < 1 else max(sizes)
        name = f"{settings[sizes.index(wrong)]}={wrong}" if settings else f"sizes {list(sizes)}"
        raise DataError(f"{name}: must be at least 1 and leave some of the {len(examples)} examples for training")
    order = torch.randperm(len(examples), generator=generator(Streams(seed).split))
    bounds = [0, *accumulate(sizes), len(examples)]
    return [examples[order[low:high]] for low, high in pairwise(bounds)]
