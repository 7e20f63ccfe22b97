"""Random streams: the seed of a replicate gives a separate stream for each purpose."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Streams:
    """The seeds of one replicate, one method per purpose, so that a misspelt purpose is an AttributeError.

    The texts that seeds are derived from are part of every result and must never change.
    """

    seed: int

    @property
    def init(self) -> int:
        """Seed of the network's initialisation, and of random values that it keeps outside its state."""
        return derive(self.seed, "init")

    def reinit(self, round: int) -> int:
        """Seed of another draw of the initialisation."""
        return derive(self.seed, "reinit", round)

    def order(self, round: int, copy: int = 0) -> int:
        """Seed of the order of the data; `copy` counts trainings of the same ticket."""
        return derive(self.seed, "order", round, *_copy(copy))

    def noise(self, round: int, copy: int = 0) -> int:
        """Seed of everything drawn while training, such as dropout; `copy` counts trainings of the same ticket."""
        return derive(self.seed, "noise", round, *_copy(copy))

    def scoring(self, round: int, step: int = 0) -> int:
        """Seed of the order of the data that the criterion reads, at a step on the way to the round's density."""
        return derive(self.seed, "scoring", round, *_step(step))

    def score(self, round: int, step: int = 0) -> int:
        """Seed of what the criterion draws itself, at a step on the way to the round's density."""
        return derive(self.seed, "score", round, *_step(step))

    def masks(self, arm: str, round: int) -> int:
        """Seed of what an arm draws to change the masks."""
        return derive(self.seed, "masks", arm, round)

    @property
    def rehearsal(self) -> int:
        """Seed of everything drawn in the check before training."""
        return derive(self.seed, "rehearsal")

    @property
    def split(self) -> int:
        """Seed of the division of a data set into its parts."""
        return derive(self.seed, "split")


@dataclass(frozen=True)
class Order:
    """The seeds of one training's reading of its data, all derived from `Streams.order`."""

    seed: int

    def epoch(self, epoch: int) -> int:
        """Seed of an epoch's shuffle."""
        return derive(self.seed, "epoch", epoch)

    def augment(self, step: int) -> int:
        """Seed of a batch's augmentation."""
        return derive(self.seed, "augment", step)

    def view(self, step: int, index: int) -> int:
        """Seed of the transformation of one picture."""
        return derive(self.seed, "view", step, index)


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose of one replicate; streams of different purposes are unrelated.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int) -> torch.Generator:
    """A CPU generator with a seed."""
    return torch.Generator().manual_seed(seed)


def seed_all(seed: int) -> None:
    """Seeds the global generators of torch, numpy and Python, and of GPUs in use.

    Before CUDA is initialised, `torch.manual_seed` notes a stack trace for each kind of device: a millisecond.
    """
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    seed_reading(seed)


def seed_reading(seed: int) -> None:
    """The same without GPUs, from which no data set draws."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes no larger seed
    random.seed(seed)


@contextmanager
def unmoved() -> Iterator[None]:
    """Leaves the generators, of GPUs not, as they are before the context."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context, the global generators of torch, numpy and Python are seeded, for a user's code to draw from.

    Of GPUs only the current one's state is restored, and only if CUDA is initialised already: reading a state
    initialises CUDA, which takes memory on a machine whose GPUs this process may never need.
    """
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    drawn = None if gpu is None else torch.cuda.get_rng_state(gpu)
    try:
        with unmoved():
            seed_all(seed)
            if gpu is None and _has_gpus():
                torch.cuda.manual_seed_all(seed)  # when they are first used
            yield
    finally:
        if gpu is not None and drawn is not None:
            torch.cuda.set_rng_state(drawn, gpu)
        elif _has_gpus():
            torch.cuda.manual_seed_all(torch.initial_seed())


@cache
def _has_gpus() -> bool:
    return torch.cuda.device_count() > 0


@contextmanager
def drawing(seed: int) -> Iterator[torch.Generator]:
    """A generator with a seed, for code that is handed one; what it draws from the global ones is independent of it."""
    with seeded(derive(seed, "global")):
        yield generator(seed)


def noise() -> dict[str, Tensor]:
    """The states of the global CPU generators by library, as tensors that a checkpoint can hold."""
    drawn = np.random.get_state(legacy=False)
    keys = [*drawn["state"]["key"].tolist(), drawn["state"]["pos"], drawn["has_gauss"], drawn["gauss"]]
    _, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor(keys, dtype=torch.float64),  # which holds 32-bit words exactly
        "python": torch.tensor([*words, gauss is not None, gauss or 0.0], dtype=torch.float64),
    }


def restore_noise(states: Mapping[str, Tensor]) -> None:
    """Restores the states that `noise` returned; a library that is missing among them is left as it is."""
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "numpy" in states:
        *keys, position, has_gauss, gauss = states["numpy"].tolist()
        np.random.set_state(("MT19937", np.array(keys, np.uint32), int(position), int(has_gauss), gauss))
    if "python" in states:
        *words, has_gauss, gauss = states["python"].tolist()
        random.setstate((3, tuple(map(int, words)), gauss if has_gauss else None))


def _step(step: int) -> tuple[str, int] | tuple[()]:
    """Part of the purpose of a later step; the first has none, so that older results keep their seeds."""
    return ("step", step) if step else ()


def _copy(copy: int) -> tuple[str, int] | tuple[()]:
    """Part of the purpose of a copy; the first training has none, so that older results keep their seeds."""
    return ("copy", copy) if copy else ()
