"""Where the time of a LeNet's step goes, in a bare loop and in ours, and what kernels on prepared lists take from it.

The loops run as they are, with a clock around what they call. All of it goes to profile.csv.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from experiments.speed import paired
from experiments.speed.bare import Bare, adam
from experiments.speed.cells import lenet, pruned
from experiments.speed.pace import pace
from experiments.speed.profiles import FILE, PARTS, STEP
from experiments.speed.rows import Row, at_most
from lottery.config.build import build
from lottery.data.examples import Data
from lottery.pruning.masks import Masks, dense
from lottery.training import kernels
from lottery.training.fit import fit
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Module
from lottery.training.phase import Phase

REPEATS, STEPS, PAIRS = 8, 300, 10


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        cell = build(lenet(Path(name)))
        recipe, thin = cell.study.recipe, pruned(cell, 0.036)
        assert isinstance(recipe, ModuleRecipe)
        off, whole = replace(recipe, numerics=replace(recipe.numerics, sparse="off")), dense(thin)
        loops = {
            "a bare loop": partial(bare, recipe, whole, STEPS),
            "lottery": partial(ours, recipe, whole, STEPS),
            "a bare loop, masks of 3.6 %": partial(bare, recipe, thin, STEPS),
            "lottery, masks of 3.6 %": partial(ours, off, thin, STEPS),
            "lottery, sparse at 3.6 %": partial(ours, recipe, thin, STEPS),
        }
        taken: dict[str, list[dict[str, float]]] = {what: [] for what in loops}
        for _ in range(REPEATS + 1):
            for what, profile in loops.items():
                taken[what].append(profile())
        write(FILE, {what: each[1:] for what, each in taken.items()})
        for what, each in taken.items():
            steps = paired.median([1e6 * one[STEP] for one in each[1:]], ".0f")
            yield Row(f"LeNet, a step of {what}: microseconds of CPU time", steps)
        for what, masks in (("dense", whole), ("sparse at 3.6%", thin)):
            own = partial(pace, recipe, masks, 400)
            ratios = paired.turns(own, patch.object(kernels, "prepared", lambda optimizer: optimizer.step)(own), PAIRS)
            yield at_most(f"LeNet, {what}: a step on prepared lists, over one with `optimizer.step`", ratios, 1)


def write(file: Path, taken: Mapping[str, list[dict[str, float]]]) -> None:
    """Stores the median of each part in microseconds, and of the whole step, with its interval."""
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(["loop", "part", "microseconds", "low", "high", "n"])
        for what, each in taken.items():
            for part in each[0]:
                found = [1e6 * one[part] for one in each]
                rows.writerow(
                    [what, part, *(round(x, 1) for x in (median(found), *paired.interval(found))), len(found)]
                )


def bare(recipe: ModuleRecipe, masks: Masks, steps: int) -> dict[str, float]:
    """CPU seconds of each part of a bare loop's step."""
    loop, clock = Bare(recipe, masks, adam), Clock()
    loop.batches, loop.forward = clock.reading(loop.batches), clock.timed("forward", loop.forward)
    loop.optimizer.step = clock.timed("optimizer", loop.optimizer.step)  # type: ignore[method-assign]  # its own
    with clock.watching():
        loop.train(steps // 5)
        before = clock.taken()
        loop.train(steps)
        return each(before, clock.taken(), steps)


def ours(recipe: ModuleRecipe, masks: Masks, steps: int) -> dict[str, float]:
    """CPU seconds of each part of a step of `lottery.training.fit.fit`."""
    clock, marks, prepared, batches = Clock(), dict[int, dict[str, float]](), kernels.prepared, Data.batches

    def watch(step: int, row: object) -> None:
        marks[step] = clock.taken()

    with ExitStack() as stack:
        for change in (
            clock.watching(),
            patch.object(kernels, "prepared", lambda optimizer: clock.timed("optimizer", prepared(optimizer))),
            patch.object(Data, "batches", lambda *given: clock.reading(batches(*given))),
            patch.object(Module, "forward", clock.timed("forward", Module.forward)),
        ):
            stack.enter_context(change)
        state, last = recipe.network().state_dict(), steps + steps // 5
        phase = Phase(state, masks, 0, last, order=0, noise=0, sparse=recipe.sparse_weights(masks))
        fit(recipe, phase, watch=watch, evaluate=False)
    first = min(step for step in marks if step >= steps // 5)
    return each(marks[first], marks[last], last - first)


def each(before: Mapping[str, float], after: Mapping[str, float], steps: int) -> dict[str, float]:
    """Seconds of each part of one step, `rest` being what no part has."""
    found = {part: (after[part] - before[part]) / steps for part in after}
    return found | {"rest": found[STEP] - sum(found[part] for part in PARTS if part != "rest")}


class Clock:
    """CPU seconds that this process has spent in each part of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((part for part in PARTS if part != "rest"), 0.0)

    def taken(self) -> dict[str, float]:
        return {**self.seconds, STEP: time.process_time()}

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, counted."""

        def counted(*given: Any, **more: Any) -> Any:
            start = time.process_time()
            try:
                return work(*given, **more)
            finally:
                self.seconds[part] += time.process_time() - start

        return counted

    def reading(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches, counted; closed with them."""
        following = self.timed("gathering", next)
        with closing(batches):  # type: ignore[type-var]  # both loops have generators
            while (batch := following(batches, None)) is not None:
                yield batch

    def watching(self) -> ExitStack:
        """Within the context, what both loops call of PyTorch is counted."""
        stack = ExitStack()
        for owner, name, part in (
            (functional, "cross_entropy", "forward"),
            (Tensor, "backward", "backward"),
            (torch, "_foreach_mul_", "masks"),
        ):
            stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
        return stack
