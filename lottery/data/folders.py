"""Folders of pictures, one for each class: ImageNet, or your own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lottery.data.examples import Data, DataError, split
from lottery.data.pictures import Pictures, Views
from lottery.data.pixels import Normalise

_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing"}
"""Usual names of the parts of a data set, in lower case."""


def folder(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize: int,
    scale: Sequence[float] = (0.08, 1.0),
    workers: int = 0,
    test_size: int = 0,
) -> Data:
    """Pictures of `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`.

    If there is no test/, as in ImageNet, then val/ is the test part. If there is no validation part left, then
    `val_size` training pictures are. If there is no train/ either, `root/<class>/` is split into three.
    """
    channels, height, width = shape if len(shape) == 3 else (0, 0, 0)
    if channels != 3:
        raise DataError(f"data.shape={list(shape)}: must be [3, height, width] for pictures")
    if resize < max(height, width):
        raise DataError(f"data.resize={resize}: must be at least the {max(height, width)} pixels of data.shape")
    if not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise DataError(f"data.scale={list(scale)}: must be two shares of a picture's area, the smaller one first")
    if workers < 0:
        raise DataError(f"data.workers={workers}: must be at least 0 processes")
    workers = min(workers, os.cpu_count() or 1)  # more would only wait for each other
    top, views = Path(root).expanduser(), Views((height, width), resize, (scale[0], scale[1]))
    parts = [part for part in ("train", "val", "test") if (top / part).is_dir()]
    apart = "train" in parts and len(parts) > 1
    listed = _classes(top, top)
    alike = [name for name in listed if name.lower() in _PARTS]
    # one such name among others may be a class, as "train" is in CIFAR-100
    if set(alike) != set(parts) if apart else len(alike) > 1 or alike == listed:
        raise DataError(
            f"data.root={top}: the parts of a set must be named train/, val/ and test/, the first and at least one of "
            f"the others, and there are {', '.join(f'{name}/' for name in alike)}; rename or remove them"
        )
    known = _classes(top / "train", top) if apart else listed
    if len(known) != classes:
        raise DataError(f"data.classes={classes}: {top} has {len(known)} folders of classes, {known[0]} to {known[-1]}")

    def pictures(part: str) -> Pictures:
        if foreign := sorted(set(_classes(top / part, top)) - set(known)):
            raise DataError(f"{top / part / foreign[0]}: no such class among those that are trained")
        seen: dict[str, str] = {}
        found = [list(_files(top, os.path.join(part, name), seen)) for name in known]
        if part in (".", "train") and not all(found):
            raise DataError(f"{top / part / known[found.index([])]}: holds no picture")
        targets = torch.arange(classes).repeat_interleave(torch.tensor([len(names) for names in found]))
        return Pictures(top, [name for names in found for name in names], targets, views, workers)

    if not apart:
        settings = ("data.test_size", "data.val_size")
        test, val, train = split(pictures("."), (test_size, val_size), settings=settings)
    elif len(parts) == 3:
        train, val, test = map(pictures, parts)
    else:
        val, train = split(pictures("train"), (val_size,), settings=("data.val_size",))
        test = pictures(parts[1])
    return Data(train, val, test, batch_size, shape, classes, prepare=Normalise(mean, std))


def _classes(place: Path, top: Path) -> list[str]:
    names = sorted(each.name for each in os.scandir(place) if each.is_dir()) if place.is_dir() else []
    if not (known := [name for name in names if not name.startswith(".")]):
        raise DataError(
            f"data.root={top}: no folders of pictures in {place}; there must be train/, val/ and maybe test/ "
            "with one folder for each class in each of them, or one folder for each class"
        )
    return known


def _files(top: Path, inside: str, seen: dict[str, str]) -> Iterator[str]:
    """Paths, relative to `top`, of all pictures below a folder; `seen` says where each real folder was found first."""
    for place, folders, files in os.walk(top / inside, followlinks=True):
        # a link to a parent folder would never end, and one to another class would give its pictures two labels
        if (first := seen.setdefault(os.path.realpath(place), place)) != place:
            raise DataError(f"{place}: is the same folder as {first}, whose pictures count once; remove the link")
        folders.sort()
        below = os.path.relpath(place, top)
        for file in sorted(files):
            if file.lower().endswith(_ENDINGS) and not file.startswith("."):
                yield os.path.join(below, file)
