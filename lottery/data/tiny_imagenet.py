"""Tiny-ImageNet: 200 classes, 100,000 training and 10,000 validation images of 3x64x64 pixels (Le & Yang 2015)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lottery.data.examples import Augmentation, Data, DataError, Examples, split
from lottery.data.pixels import Normalise
from lottery.data.published import damaged


def tiny_imagenet(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
) -> Data:
    """Tiny-ImageNet; its validation part is the test part, because the labels of the published test part are secret."""
    given = Path(root).expanduser()
    top = next((place for place in (given, given / "tiny-imagenet-200") if (place / "train").is_dir()), None)
    if top is None:
        raise DataError(
            f"data.root={given}: no Tiny-ImageNet there, in it or in tiny-imagenet-200; no download is built in: "
            "unpack tiny-imagenet-200.zip, so that it holds train/<wnid>/images/ and val/val_annotations.txt"
        )
    wnids = sorted(place.name for place in (top / "train").iterdir() if place.is_dir())
    train = [
        (path, label)
        for label, wnid in enumerate(wnids)
        for path in sorted((top / "train" / wnid / "images").glob("*.JPEG"))
    ]
    if not train:
        raise DataError(f"{top / 'train'}: no <wnid>/images/*.JPEG in it")
    if len(wnids) != classes:
        raise DataError(f"data.classes={classes}: {top / 'train'} has {len(wnids)} folders of classes; unpack it again")
    if without := set(range(classes)) - {label for _, label in train}:
        raise DataError(f"{top / 'train' / wnids[min(without)] / 'images'}: no *.JPEG in it; unpack the set again")
    val, rest = split(_images(train, shape), (val_size,), settings=("data.val_size",))
    test = _images(_annotated(top, wnids), shape)
    return Data(rest, val, test, batch_size, shape, classes, augment, Normalise(mean, std))


def _annotated(top: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """Paths and labels of the validation part's images, in the order of its list."""
    path, images = top / "val" / "val_annotations.txt", top / "val" / "images"
    try:
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        listed = [(line[0], line[1]) for line in lines]
    except (OSError, ValueError, IndexError) as error:
        raise damaged(path, error) from error
    names, there = Counter(name for name, _ in listed), {image.name for image in images.glob("*.JPEG")}
    if twice := [name for name, count in names.items() if count > 1]:
        raise damaged(path, f"it lists {twice[0]} {names[twice[0]]} times")
    if missing := [name for name in names if name not in there]:
        raise damaged(images / missing[0], f"No such file, and {path.name} lists it")
    if unlisted := sorted(there - set(names)):
        raise damaged(path, f"it does not list {unlisted[0]}, one of {len(there)} images in {images}")
    if untrained := sorted({wnid for _, wnid in listed} - set(wnids)):
        raise DataError(f"{top / 'train' / untrained[0]}: no such folder, and {path} names this class; unpack it again")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    return [(images / name, labels[wnid]) for name, wnid in listed]


def _images(listed: Sequence[tuple[Path, int]], shape: Sequence[int]) -> Examples:
    inputs = torch.empty((len(listed), *shape), dtype=torch.uint8)

    def read(index: int) -> None:
        path, _ = listed[index]
        try:
            with Image.open(path) as file:
                pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        except Exception as error:  # each format's decoder raises its own
            raise damaged(path, error) from error
        if pixels.shape != inputs.shape[1:]:
            raise DataError(f"{path}: has shape {list(pixels.shape)}, and data.shape is {list(shape)}")
        inputs[index] = pixels

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(listed))))
    return Examples(inputs, torch.tensor([label for _, label in listed]))
