"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that come with the package."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lottery.data.examples import Data, Examples, split


def digits(batch_size: int, val_size: int, test_size: int, shape: Sequence[int], classes: int) -> Data:
    """The digits; pixels are divided by 16, then normalised with mean and deviation of the training part.

    Test and validation parts are drawn once, with the same seed for every replicate.
    """
    pixels, labels = read()
    whole = Examples(pixels.float().view(-1, 1, 8, 8) / 16, labels)
    test, val, train = split(whole, (test_size, val_size), settings=("data.test_size", "data.val_size"))
    mean, deviation = train.inputs.mean(), train.inputs.std()
    train, val, test = (Examples((part.inputs - mean) / deviation, part.targets) for part in (train, val, test))
    return Data(train, val, test, batch_size, shape, classes)


def read() -> tuple[Tensor, Tensor]:
    """All pixels, (1797, 64) from 0 to 16, and labels, as `sklearn.datasets.load_digits` gives them.

    They are read from the package's file, because importing the package takes a tenth of a short command's time.
    """
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is installed with lottery"
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file) as lines:
        rows = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.int64))
    return rows[:, :-1], rows[:, -1].contiguous()
