"""MNIST-1D (Greydanus & Kobak 2020): digits as one-dimensional signals of 40 numbers, drawn here, nothing to download.

A digit is a hand-drawn line of twelve heights. It becomes an example by being lengthened with silence, stretched,
scaled, moved along a circle, covered with smooth noise where it is silent and with white noise everywhere, tilted, and
read off at 40 places. The random numbers are those of numpy's legacy generator in the order of the authors' package
`mnist1d`, so that the arrays are the package's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState

from lottery.data.examples import Data, DataError, Examples, split

Array = np.ndarray

# heights of the authors' drawings, 0 to 9
_DRAWN = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_SILENCE = (36, 60)
"""fewest and most silent places that follow a digit"""
_LENGTH = 72
"""places of a signal while it is changed: a digit's twelve and the most silence"""
_SCALE, _SHIFT, _SMOOTH, _WHITE, _TILT = 0.4, 48, 0.25, 0.02, 0.75
_READ = 40


class Arrays(NamedTuple):
    """Signals (N, 40) in 64 bits and their digits."""

    train: Array
    train_digits: Array
    test: Array
    test_digits: Array


def mnist1d(
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    samples: int = 5000,
    train_split: float = 0.8,
    draw: int = 42,
    positions: str = "plain",
) -> Data:
    """The signals of one draw, their places ordered as `positions` says (see `order`).

    With `val_size=0` the test part is the validation part too, as in the authors' notebook on lottery tickets, which
    watches the test set; otherwise validation is split off the training part. Raises DataError for sizes that leave a
    part empty and for an unknown order.
    """
    arrays, places = generate(samples, train_split, draw), order(positions)
    train = _examples(arrays.train[:, places], arrays.train_digits)
    test = _examples(arrays.test[:, places], arrays.test_digits)
    val, train = split(train, (val_size,), settings=("data.val_size",)) if val_size else (test, train)
    return Data(train, val, test, batch_size, shape, classes)


def order(positions: str) -> Array:
    """The order in which a signal's 40 places are read, one of the four of the authors' notebook.

    `plain`; `shuffled` by one fixed permutation; `flipped` end to end; `chunks`, four of ten places as 3, 4, 1, 2,
    which exchanges the halves and breaks one neighbourhood alone. Raises DataError for another name.

    >>> order("chunks")[:3], order("flipped")[:3]
    (array([20, 21, 22]), array([39, 38, 37]))
    """
    places = np.arange(_READ)
    match positions:
        case "plain":
            return places
        case "shuffled":
            return RandomState(0).permutation(_READ)
        case "flipped":
            return places[::-1].copy()
        case "chunks":
            return np.roll(places, _READ // 2)
    raise DataError(f"data.positions={positions}: must be plain, shuffled, flipped or chunks")


def generate(samples: int = 5000, train_split: float = 0.8, draw: int = 42) -> Arrays:
    """Draws as many signals of each digit, shuffles and standardises them all together, and cuts off the test part.

    Mean and deviation are those of training and test part together, as the authors take them. Raises DataError for
    numbers that leave a part empty.
    """
    if samples < 10 or samples % 10:
        raise DataError(f"data.samples={samples}: must be a multiple of 10, as many for each digit")
    if not 1 <= int(samples * train_split) < samples:
        raise DataError(f"data.train_split={train_split}: must leave some of the {samples} samples on both sides")
    if not 0 <= draw < 2**32:
        raise DataError(f"data.draw={draw}: must be a seed of numpy's, from 0 to {2**32 - 1}")
    rng = RandomState(draw)
    signals = np.stack([signal(digit, rng) for digit in templates() for _ in range(samples // 10)])
    digits = np.repeat(np.arange(10), samples // 10)
    shuffled = rng.permutation(samples)
    signals, digits = signals[shuffled], digits[shuffled]
    signals = (signals - signals.mean()) / signals.std()
    cut = int(samples * train_split)
    return Arrays(signals[:cut], digits[:cut], signals[cut:], digits[cut:])


def templates() -> Array:
    """The ten drawn digits (10, 12): standardised, divided by six, and beginning at zero."""
    drawn = np.array(_DRAWN)
    drawn -= drawn.mean(1, keepdims=True)
    drawn /= drawn.std(1, keepdims=True)
    return (drawn - drawn[:, :1]) / 6


def signal(digit: Array, rng: RandomState) -> Array:
    """One random signal of a digit, not standardised. The order of the draws is the authors'."""
    from scipy.ndimage import gaussian_filter1d

    fewest, most = _SILENCE
    silence = np.zeros(fewest + int(rng.rand() * (most - fewest + 1)))
    # the digit is lifted off zero, so that what is exactly zero afterwards is silence and gets the smooth noise
    line = _resampled(np.concatenate([digit + 1e-8, silence]), _LENGTH)
    line = line * (1 + _SCALE * (rng.rand() - 0.5))
    line = np.roll(line, rng.choice(_SHIFT))
    smooth = gaussian_filter1d(_SMOOTH * rng.randn(_LENGTH), 2)
    line = np.where(line != 0, line, smooth) + _WHITE * rng.randn(_LENGTH)
    tilt = _TILT * (rng.rand() - 0.5)
    return _resampled(line - tilt * _spaced(-0.5, 0.5, _LENGTH), _READ)


def _resampled(line: Array, length: int) -> Array:
    """The line between the same ends, read off at `length` equal distances."""
    return np.interp(_spaced(0, 1, length), _spaced(0, 1, len(line)), line)


@cache
def _spaced(first: float, last: float, count: int) -> Array:
    """Equal distances, kept because thousands of signals ask for the same few."""
    return np.linspace(first, last, count)


def _examples(signals: Array, digits: Array) -> Examples:
    return Examples(torch.tensor(signals, dtype=torch.float32), torch.tensor(digits))
