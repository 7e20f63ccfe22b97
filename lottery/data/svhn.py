"""SVHN: 73,257 training and 26,032 test images of 3x32x32 pixels, cropped house numbers (Netzer et al. 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lottery.data.examples import Augmentation, Data, Examples, split
from lottery.data.pixels import Normalise
from lottery.data.published import Published, damaged

_SVHN = Published("SVHN", ".", ("train_32x32.mat", "test_32x32.mat"), downloads=({"split": "train"}, {"split": "test"}))


def svhn(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
) -> Data:
    """SVHN: digits of house numbers; the label 10 of the files becomes the digit 0."""
    train, test = map(_read, _SVHN.paths(root))
    val, rest = split(train, (val_size,), settings=("data.val_size",))
    return Data(rest, val, test, batch_size, shape, classes, augment, Normalise(mean, std))


def _read(path: Path) -> Examples:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        pixels, labels = content["X"], content["y"].flatten()
        if not (np.isfinite(labels) & (np.trunc(labels) == labels)).all():
            raise ValueError("its labels are not whole numbers")
        labels = labels.astype(np.int64)
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)):
            raise ValueError(f"it holds {pixels.dtype} pixels of shape {list(pixels.shape)} for {len(labels)} labels")
    except Exception as error:  # scipy may raise anything on a damaged file
        raise damaged(path, error if str(error) else type(error).__name__) from error
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
    return Examples(images, torch.from_numpy(np.where(labels == 10, 0, labels)))
