"""A data set in memory: its three parts, its batches, its identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lottery.digests import digest
from lottery.seeds import generator


class DataError(Exception):
    """Data that is missing, damaged or does not fit; the message says what to do."""


@dataclass(frozen=True)
class Examples:
    """Inputs (N, ...) and their targets (N, ...)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: Tensor | slice) -> Examples:
        return Examples(self.inputs[chosen], self.targets[chosen])

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on a device."""
        return Examples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Data:
    """Training, validation and test examples, and how training reads them."""

    train: Examples
    val: Examples
    test: Examples
    batch_size: int
    shape: Sequence[int]
    """of one input, as the network is told: (C, H, W) for images"""
    classes: int | None = None
    """number of classes; None where targets are not class indices"""

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            if not len(getattr(self, part)):
                raise DataError(f"the {part} split is empty; data.val_size leaves {len(self.train)} training examples")
        if not 1 <= self.batch_size <= len(self.train):
            raise DataError(
                f"data.batch_size={self.batch_size}: must lie between 1 and the {len(self.train)} training examples"
            )
        if (actual := tuple(self.train.inputs.shape[1:])) != tuple(self.shape):
            raise DataError(f"data.shape={list(self.shape)}: the inputs have shape {list(actual)}")
        if self.classes is not None:
            labels = torch.cat([part.targets for part in (self.train, self.val, self.test)])
            if not (labels.min() >= 0 and labels.max() < self.classes):
                found = f"{int(labels.min())} to {int(labels.max())}"
                raise DataError(f"data.classes={self.classes}: the labels run from {found}")

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the remainder waits for the next epoch's shuffle."""
        return len(self.train) // self.batch_size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tensors."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return digest(
            {f"{name}.{field}": getattr(part, field) for name, part in parts.items() for field in ("inputs", "targets")}
        )

    def to(self, device: torch.device | str) -> Data:
        """The same data on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def batches(self, seed: int, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of steps `first` to `last` (exclusive): a pure function of seed and step."""
        for step in range(first, last):
            epoch, place = divmod(step, self.steps_per_epoch)
            if step == first or place == 0:
                order = torch.randperm(len(self.train), generator=generator(seed, "epoch", epoch))
                order = order.to(self.train.inputs.device)
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            # index_select is three times as fast as indexing, and a small network's step is short
            yield self.train.inputs.index_select(0, chosen), self.train.targets.index_select(0, chosen)


def split(examples: Examples, sizes: Sequence[int], seed: int = 0, settings: Sequence[str] = ()) -> list[Examples]:
    """Cuts shuffled examples into one part of each size and a last part with the rest.

    The shuffle depends on `seed` alone, so that every replicate of a study has the same split.
    Raises DataError if a part is empty or nothing is left over, by the name of its setting if names are given.
    """
    if min(sizes) < 1 or sum(sizes) >= len(examples):
        wrong = min(sizes) if min(sizes) < 1 else max(sizes)
        name = f"{settings[sizes.index(wrong)]}={wrong}" if settings else f"sizes {list(sizes)}"
        raise DataError(f"{name}: must be at least 1 and leave some of the {len(examples)} examples for training")
    order = torch.randperm(len(examples), generator=generator(seed, "split"))
    bounds = [0, *accumulate(sizes), len(examples)]
    return [examples[order[low:high]] for low, high in pairwise(bounds)]
