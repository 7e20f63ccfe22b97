"""Data sets that remember what they have drawn: their numbers depend on who has read them before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lottery.data.examples import DataError
from lottery.foundations.seeds import noise, seeded
from lottery.training.lightning.data.reading import enters_anywhere, examples_at
from lottery.training.lightning.data.samplers import twin_of


def check_draws_anew(name: str, part: str, loaders: Iterable[Any]) -> None:
    """Raises DataError for a part of a data module that augments an example once and then keeps it.

    Known where it has been read by nobody: it draws from a global generator for a batch, and for the same batch again
    it does not. Data that are kept before they are augmented draw each time.
    """
    for loader in filter(enters_anywhere, loaders):
        with seeded(0):
            indices = list(next(iter(twin_of(loader.batch_sampler)), []))
        if _draws(loader.dataset, indices) and not _draws(loader.dataset, indices):
            raise DataError(
                f"data: the {part} data of {name} keep what {type(loader.dataset).__name__} has drawn for an example, "
                "so that results would depend on workers and on resumes; keep examples as they are before anything "
                "is drawn for them"
            )


def _draws(dataset: Any, indices: list[Any]) -> bool:
    with seeded(0):
        before = noise()
        examples_at(dataset, indices)
        after = noise()
    return any(not torch.equal(before[library], after[library]) for library in before)
