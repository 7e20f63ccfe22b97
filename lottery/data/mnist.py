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

from lottery.data.examples import Data, DataError, Examples, split

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def mnist(
    root: str, batch_size: int, val_size: int, shape: Sequence[int], classes: int, mean: float, std: float
) -> Data:
    """Handwritten digits (LeCun et al. 1998)."""
    train, test = _read("MNIST", root, mean, std)
    val, train = split(train, (val_size,), settings=("data.val_size",))
    return Data(train, val, test, batch_size, shape, classes)


def fashion_mnist(
    root: str, batch_size: int, val_size: int, shape: Sequence[int], classes: int, mean: float, std: float
) -> Data:
    """Articles of clothing (Xiao et al. 2017)."""
    train, test = _read("FashionMNIST", root, mean, std)
    val, train = split(train, (val_size,), settings=("data.val_size",))
    return Data(train, val, test, batch_size, shape, classes)


def _read(name: str, root: str, mean: float, std: float) -> tuple[Examples, Examples]:
    """The published training and test parts: pixels in [0, 1], then normalised."""
    folder = Path(root).expanduser()
    paths = _find(name, folder) or _download(name, folder)
    images, labels, test_images, test_labels = map(read_idx, paths)
    return _examples(images, labels, mean, std, paths[0]), _examples(test_images, test_labels, mean, std, paths[2])


def _examples(images: Tensor, labels: Tensor, mean: float, std: float, path: Path) -> Examples:
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{path}: images of shape {list(images.shape)} do not go with labels of {list(labels.shape)}")
    return Examples(((images[:, None].float() / 255) - mean) / std, labels.long())


def _find(name: str, root: Path) -> list[Path] | None:
    """The four files, gzipped or not, in `root` itself or where torchvision puts them."""
    for folder in (root, root / name / "raw"):
        found = [next((p for p in (folder / f, folder / f"{f}.gz") if p.is_file()), None) for f in _FILES]
        if all(found):
            return [path for path in found if path]
    return None


def _download(name: str, root: Path) -> list[Path]:
    from torchvision import datasets

    try:
        getattr(datasets, name)(root, download=True)
    except (OSError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"data.root={root}: no {name} there ({_FILES[0]}[.gz] and three more, in it or in {name}/raw), "
            f"and the download failed ({said}); give the folder that holds the files"
            + (
                ", e.g. that of Debian's package dataset-fashion-mnist, data.root=/usr/share/datasets/fashion-mnist"
                if name == "FashionMNIST"
                else ""
            )
        ) from error
    found = _find(name, root)
    assert found, f"torchvision downloaded {name} to a place of its own"
    return found


def read_idx(path: Path) -> Tensor:
    """One IDX file of unsigned bytes, gzipped or not, as a uint8 tensor of the shape it declares.

    Raises DataError naming a file that is damaged.
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
        raise DataError(f"{path} is damaged or unreadable: {error}; remove it and fetch it again") from error
