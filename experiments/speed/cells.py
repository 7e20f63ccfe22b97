"""The cells that are measured: LeNet-300-100 on Fashion-MNIST, ResNet-20 on random pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory

import torch

from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.data.augmentations import pad_crop_flip
from lottery.data.examples import Data, Examples
from lottery.data.pixels import Normalise
from lottery.pruning import masks as _masks
from lottery.pruning.masks import Masks
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.store.entries import Store

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def quietly(job: CellConfig) -> None:
    """Runs a cell as `lottery run` does, without its output."""
    with redirect_stdout(StringIO()):
        run_cell(job)


def lenet(folder: Path, *more: str) -> CellConfig:
    """One cell of `experiment=fc2019_lenet`."""
    return cell_configs(command(folder, *more))[0]


def command(folder: Path, *more: str) -> list[str]:
    """The arguments of `lottery run` for that cell."""
    return ["experiment=fc2019_lenet", *fashion(), "hydra.mode=RUN", "seed=0", "hardware=cpu", f"out={folder}", *more]


def resnet20(folder: Path, *more: str) -> CellConfig:
    """ResNet-20 with its CIFAR-10 recipe, on random pixels, which do not change the time of a step."""
    settings = ["model=resnet_20", "data=cifar10", "data._target_=experiments.speed.cells.random_pixels"]
    sgd = ["optimizer=sgd", "optimizer.weight_decay=1e-4", "scope=everywhere"]
    return cell_configs([*settings, *sgd, "hydra.mode=RUN", "seed=0", "hardware=cpu", f"out={folder}", *more])[0]


def random_pixels(
    root: str,
    batch_size: int,
    val_size: int,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: object = None,
) -> Data:
    """Random images in the format of CIFAR-10: 2,560 for training and 256 for each evaluation."""
    rng = torch.Generator().manual_seed(0)
    train, val, test = (
        Examples(
            torch.randint(256, (count, *shape), dtype=torch.uint8, generator=rng),
            torch.randint(classes, (count,), generator=rng),
        )
        for count in (2560, 256, 256)
    )
    return Data(train, val, test, batch_size, shape, classes, pad_crop_flip, Normalise(mean, std))


@cache
def fashion() -> tuple[str, str]:
    """The settings for Fashion-MNIST if it is on this machine, else for random pixels in its file format."""
    for root in (Path(os.environ.get("LOTTERY_DATA", "data")), DEBIAN):
        if any(root.glob("**/train-images-idx3-ubyte*")):
            return "data=fashion_mnist", f"data.root={root}"
    _made.append(TemporaryDirectory())
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels, labels = torch.randint(256, (count, 28, 28)), torch.randint(10, (count,))
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (Path(_made[-1].name) / f"{part}-{name}-ubyte").write_bytes(header + values.byte().numpy().tobytes())
    return "data=fashion_mnist", f"data.root={_made[-1].name}"


_made: list[TemporaryDirectory[str]] = []  # removed when the process ends


def pruned(cell: Cell, density: float) -> Masks:
    """The masks of the first round in the study's schedule whose density is at most this."""
    net, pruning = cell.study.recipe.network(), cell.study.pruning
    weights = _masks.prunable(net)
    found, scores = _masks.dense(weights), {name: weight.detach().abs() for name, weight in weights.items()}
    for target in pruning.schedule:
        if _masks.density(found) <= density:
            break
        found = pruning.scope(scores, found, target)
    return found


def executed(folder: Path) -> int:
    """Steps executed by all processes for the phases in a folder's store."""
    return sum(phase["executed"] for phase in Store(folder / "store").entries().values())
