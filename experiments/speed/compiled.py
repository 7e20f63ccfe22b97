"""torch.compile: what a bare loop gains by it, how long it takes, and what is left of that in a training of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.optim import Optimizer

from experiments.speed.bare import Bare, adam, sgd
from experiments.speed.cells import lenet, resnet20
from experiments.speed.pace import pace
from experiments.speed.paired import median, seconds, turns
from experiments.speed.rows import Row, at_least
from lottery.config.build import build
from lottery.training.recipes import Recipe

LONG = 20_000
"""the steps of a training that pays for one compilation"""


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # an empty cache: compile anew
        yield from compared("LeNet", build(lenet(folder)).study.recipe, adam, steps=200, pairs=20)
        recipe = build(resnet20(folder)).study.recipe
        yield from compared("ResNet-20", recipe, sgd, steps=5, pairs=8)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "own")  # which has compiled nothing of the bare loop's
        yield from trained("ResNet-20", recipe, sgd, steps=25, pairs=6)


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


def trained(
    name: str, recipe: Recipe, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], steps: int, pairs: int
) -> Iterator[Row]:
    """Our loop with `numerics.compile=true`; a training of `steps` tells its pace, and the first its compilation."""
    bare, own = Bare(recipe, {}, optimizer), replace(recipe, numerics=replace(recipe.numerics, compile=True))
    torch._dynamo.reset()

    def compiled() -> float:
        return pace(own, {}, steps, time.perf_counter)

    bare.train(1)
    before = time.perf_counter()
    each = compiled()
    once = time.perf_counter() - before - steps * each
    ratios = []
    for _ in range(pairs):
        eager = seconds(lambda: bare.train(steps)) / steps
        ratios.append(LONG * eager / (LONG * compiled() + once))
    what = f"{name}: {LONG:,} steps of a bare loop over ours with numerics.compile=true, its compilation counted"
    yield at_least(what, ratios, 1.25)
