"""Tiny sets in the published layout of each yaml in `conf/data` that reads files: 40 training and 10 test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from struct import pack

import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 40, 10
WNIDS = ("n01443537", "n01629819", "n01641577", "n01644900", "n01698640")
SMALL = ["data.classes=5", "data.shape=[3,32,32]", "data.resize=36", "data.workers=0"]
"""overrides for data sets of files, whose images are smaller in tests"""


def write(name: str, folder: Path) -> list[str]:
    """Writes the set of `conf/data/<name>.yaml` and returns the overrides that read it: 30, 10 and 10 images."""
    folder.mkdir(parents=True, exist_ok=True)
    more = WRITERS[name](folder)
    return [f"data.root={folder}", "data.val_size=10", "data.batch_size=10", *more]


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int = 10) -> list[int]:
    return [index % classes for index in range(count)]


def idx(array: np.ndarray) -> bytes:
    """The array as an IDX file of unsigned bytes."""
    return pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def python2_pickle(lists: dict[str, list[int]], data: np.ndarray) -> bytes:
    """The pickle that Python 2 makes of such a dictionary: byte strings, numpy's old names, numbers for truths."""

    def text(value: bytes) -> bytes:
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + pack("<i", len(value))) + value

    def number(value: int) -> bytes:
        return b"J" + pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    )
    byte = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    byte += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"".join(map(number, data.shape)) + {1: b"\x85", 2: b"\x86"}[data.ndim]
    array += b"(" + number(1) + shape + byte + b"\x89" + text(data.tobytes()) + b"tb"
    items = [text(b"data"), array, text(b"batch_label"), text(b"training batch 1 of 5")]
    for key, values in lists.items():
        items += [text(key.encode()), b"](" + b"".join(map(number, values)) + b"e"]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def write_mnist(folder: Path) -> list[str]:
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels(count, 28, 28, seed=count)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(labels(count))))
    return []


def write_cifar10(folder: Path) -> list[str]:
    (folder / "cifar-10-batches-py").mkdir()
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        count = TEST if name == "test_batch" else TRAIN // 5
        content = python2_pickle({"labels": labels(count)}, pixels(count, 3072, seed=number))
        (folder / "cifar-10-batches-py" / name).write_bytes(content)
    return []


def write_cifar100(folder: Path) -> list[str]:
    (folder / "cifar-100-python").mkdir()
    for name, count in (("train", TRAIN), ("test", TEST)):
        lists = {"coarse_labels": labels(count, 20), "fine_labels": labels(count, 100)}
        (folder / "cifar-100-python" / name).write_bytes(python2_pickle(lists, pixels(count, 3072, seed=count)))
    return []


def write_svhn(folder: Path) -> list[str]:
    for name, count in (("train", TRAIN), ("test", TEST)):
        tens = np.array([[label or 10] for label in labels(count)], dtype=np.uint8)
        images = pixels(count, 32, 32, 3, seed=count).transpose(1, 2, 3, 0)
        savemat(folder / f"{name}_32x32.mat", {"X": images, "y": tens}, do_compression=True)
    return []


def write_tiny_imagenet(folder: Path) -> list[str]:
    top = folder / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        for index in range(TRAIN // 5):
            save(top / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", (64, 64), number * 100 + index)
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    lines = []
    for index in range(TEST):
        save(top / "val" / "images" / f"val_{index}.JPEG", (64, 64), 1000 + index)
        lines.append(f"val_{index}.JPEG\t{WNIDS[-1 - index % 5]}\t0\t32\t44\t62\n")
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    return ["data.classes=5"]


def write_imagenet(folder: Path) -> list[str]:
    write_classes(folder / "train", TRAIN, 0)
    write_classes(folder / "val", TEST, 1000)
    return SMALL


def write_folder(folder: Path) -> list[str]:
    write_classes(folder, TRAIN + TEST, 0)
    return [*SMALL, "data.test_size=10"]


def write_classes(folder: Path, count: int, seed: int, classes: Sequence[str] = WNIDS) -> None:
    """Pictures of differing sizes, dealt out to the folders of the classes."""
    for index in range(count):
        wnid = classes[index % len(classes)]
        save(folder / wnid / f"{wnid}_{index}.JPEG", (40 + index % 7, 48 - index % 5), seed + index)


def save(path: Path, size: tuple[int, int], seed: int) -> None:
    """A picture of random colours, `size` = (width, height); every fifth one is grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey, (width, height) = seed % 5 == 4, size
    image = pixels(1, height, width, seed=seed)[0] if grey else pixels(1, height, width, 3, seed=seed)[0]
    Image.fromarray(image).save(path, "JPEG")


WRITERS: dict[str, Callable[[Path], list[str]]] = {
    "mnist": write_mnist,
    "fashion_mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "tiny_imagenet": write_tiny_imagenet,
    "imagenet": write_imagenet,
    "folder": write_folder,
}
