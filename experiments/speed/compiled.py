"""torch.compile on a bare loop: speed-up per step, and seconds of compilation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.optim import Optimizer

from experiments.speed.bare import Bare, adam, sgd
from experiments.speed.cells import lenet, resnet20
from experiments.speed.paired import median, seconds, turns
from experiments.speed.rows import Row
from lottery.config.build import build
from lottery.training.recipes import Recipe


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # an empty cache: compile anew
        yield from compared("LeNet", build(lenet(folder)).study.recipe, adam, steps=200, pairs=20)
        yield from compared("ResNet-20", build(resnet20(folder)).study.recipe, sgd, steps=5, pairs=8)


def compared(
    name: str, recipe: Recipe, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], steps: int, pairs: int
) -> Iterator[Row]:
    eager, compiled = Bare(recipe, {}, optimizer), Bare(recipe, {}, optimizer)
    torch._dynamo.reset()
    compiled.forward = torch.compile(compiled.net)
    eager.train(1)
    first = seconds(lambda: compiled.train(1)) - seconds(lambda: eager.train(1))
    ratios = turns(lambda: seconds(lambda: eager.train(steps)), lambda: seconds(lambda: compiled.train(steps)), pairs)
    yield Row(f"{name}: steps/s of a bare loop with torch.compile over one without", median(ratios))
    yield Row(f"{name}: seconds that torch.compile takes before the first step", f"{first:.0f}")
