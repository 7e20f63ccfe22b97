"""Seeds of everything that a project may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds the global generators of torch, numpy and Python, before every batch.

    Before CUDA is initialised, `torch.manual_seed` notes a stack trace for each kind of device: a millisecond.
    """
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    seed_reading(seed)


def seed_reading(seed: int) -> None:
    """The same without GPUs, from which no data set draws."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
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
