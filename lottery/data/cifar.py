"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 3x32x32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lottery.data.examples import Augmentation, Data, Examples, split
from lottery.data.pixels import Normalise
from lottery.data.published import Published, damaged

_CIFAR10 = Published("CIFAR10", "cifar-10-batches-py", (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"))
_CIFAR100 = Published("CIFAR100", "cifar-100-python", ("train", "test"))


def cifar10(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
) -> Data:
    """CIFAR-10: photographs of ten classes."""
    *train, test = (_read(path, "labels") for path in _CIFAR10.paths(root))
    whole = Examples(torch.cat([part.inputs for part in train]), torch.cat([part.targets for part in train]))
    val, rest = split(whole, (val_size,), settings=("data.val_size",))
    return Data(rest, val, test, batch_size, shape, classes, augment, Normalise(mean, std))


def cifar100(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
) -> Data:
    """CIFAR-100: photographs of a hundred classes."""
    train, test = (_read(path, "fine_labels") for path in _CIFAR100.paths(root))
    val, rest = split(train, (val_size,), settings=("data.val_size",))
    return Data(rest, val, test, batch_size, shape, classes, augment, Normalise(mean, std))


def _read(path: Path, labels: str) -> Examples:
    """Reads one pickled file; `labels` is the key of its labels. Raises DataError if it is damaged."""
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        pixels, targets = content["data"], content[labels]
        if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == (len(targets), 3072)):
            raise ValueError(f"it does not hold 3072 bytes for each of its {len(targets)} labels")
        return Examples(torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.tensor(targets, dtype=torch.int64))
    except Exception as error:  # unpickling what is not a pickle may raise anything
        raise damaged(path, error if str(error) else type(error).__name__) from error


_KNOWN = {
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}


class _Unpickler(pickle.Unpickler):
    """Takes arrays and plain data only, because a pickle can call any function of any module."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and such files hold arrays and plain data only")
        return _KNOWN[f"{module}.{name}"]
