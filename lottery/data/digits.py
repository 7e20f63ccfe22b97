"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that come with the package."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lottery.data.examples import Data, Examples, split


def digits(batch_size: int, val_size: int, test_size: int, shape: Sequence[int], classes: int) -> Data:
    """The digits; pixels are divided by 16, then normalised with mean and deviation of the training part.

    Test and validation parts are drawn once, with the same seed for every replicate.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    whole = Examples(torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))
    test, val, train = split(whole, (test_size, val_size), settings=("data.test_size", "data.val_size"))
    mean, deviation = train.inputs.mean(), train.inputs.std()
    train, val, test = (Examples((part.inputs - mean) / deviation, part.targets) for part in (train, val, test))
    return Data(train, val, test, batch_size, shape, classes)
