"""What identifies a loader's data: how many batches it has, and the first of them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lottery.foundations.digests import digest, digest_of
from lottery.training.lightning.data.reading import leaves_of

LOOKED_AT = 4
"""How many batches of each part identify the data, besides the number of batches."""


def content_of(loader: Any) -> list[Any]:
    """A loader's number of batches, None if it has no length, and the digests of the first ones."""
    return [_length(loader), [_batch_digest(batch) for batch in _first(loader)]]


def _first(loader: Any) -> list[Any]:
    if not isinstance(loader, DataLoader):
        return list(islice(loader, LOOKED_AT))
    workers, timeout = loader.num_workers, loader.timeout
    loader.num_workers, loader.timeout = 0, 0  # starting workers takes longer than reading
    try:
        return list(islice(loader, LOOKED_AT))
    finally:
        loader.num_workers, loader.timeout = workers, timeout


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _batch_digest(batch: Any) -> str:
    arrays = [torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves_of(batch)]
    tensors = {str(index): leaf for index, leaf in enumerate(arrays) if isinstance(leaf, Tensor)}
    others = [leaf for leaf in arrays if not isinstance(leaf, Tensor)]  # of an object, its text may hold its address
    return digest_of(
        [digest(tensors), [leaf if isinstance(leaf, str | int) else type(leaf).__name__ for leaf in others]]
    )
