"""MNIST and the sets that share its files: 60,000 training and 10,000 test images of 28x28 grey pixels."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import error as struct_error
from struct import unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lottery.data.examples import Data, DataError, Examples, split
from lottery.data.published import Published, damaged

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_MNIST = Published("MNIST", "MNIST/raw", _FILES, endings=("", ".gz"))
_FASHION_MNIST = Published(
    "FashionMNIST",
    "FashionMNIST/raw",
    _FILES,
    endings=("", ".gz"),
    hint=", e.g. that of Debian's package dataset-fashion-mnist, data.root=/usr/share/datasets/fashion-mnist",
)


def mnist(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: float,
    std: float,
    pad: int = 0,
    train_size: int | None = None,
) -> Data:
    """Handwritten digits (LeCun et al. 1998), padded by `pad` black pixels.

    With `train_size`, so many of the images that validation leaves train, the same ones for every replicate.
    """
    return Data(*_parts(_MNIST, root, mean, std, pad, val_size, train_size), batch_size, shape, classes)


def fashion_mnist(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: float,
    std: float,
    pad: int = 0,
    train_size: int | None = None,
) -> Data:
    """Articles of clothing (Xiao et al. 2017), padded by `pad` black pixels; `train_size` as in `mnist`."""
    return Data(*_parts(_FASHION_MNIST, root, mean, std, pad, val_size, train_size), batch_size, shape, classes)


def _parts(
    published: Published, root: str, mean: float, std: float, pad: int, val_size: int, train_size: int | None
) -> tuple[Examples, Examples, Examples]:
    train, test = _read(published, root, mean, std, pad)
    return *_divided(train, val_size, train_size), test


def _divided(train: Examples, val_size: int, train_size: int | None) -> tuple[Examples, Examples]:
    """The training and the validation part of the published training images."""
    if train_size is None:
        val, rest = split(train, (val_size,), settings=("data.val_size",))
        return rest, val
    val, rest, _ = split(train, (val_size, train_size), settings=("data.val_size", "data.train_size"))
    return rest, val


def _read(published: Published, root: str, mean: float, std: float, pad: int) -> tuple[Examples, Examples]:
    """Reads the published training and test parts; pixels are scaled to [0, 1], then normalised."""
    if pad < 0:
        raise DataError(f"data.pad={pad}: must be at least 0 pixels")
    paths = published.paths(root)
    images, labels, test_images, test_labels = map(read_idx, paths)
    return (
        _examples(images, labels, mean, std, pad, paths[0]),
        _examples(test_images, test_labels, mean, std, pad, paths[2]),
    )


def _examples(images: Tensor, labels: Tensor, mean: float, std: float, pad: int, path: Path) -> Examples:
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{path}: images of shape {list(images.shape)} do not go with labels of {list(labels.shape)}")
    images = functional.pad(images[:, None], [pad] * 4)
    return Examples(((images.float() / 255) - mean) / std, labels.long())


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file of unsigned bytes, gzipped or not, as a uint8 tensor of the shape that it declares.

    Raises DataError if the file is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dimensions = unpack(">HBB", content[:4])
        if zero or kind != 8:
            raise ValueError(f"it does not begin like an IDX file of bytes ({content[:4].hex()})")
        shape = unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
        return torch.from_numpy(values.reshape(shape).copy())
    except (OSError, EOFError, ValueError, zlib.error, struct_error) as error:
        raise damaged(path, error) from error
