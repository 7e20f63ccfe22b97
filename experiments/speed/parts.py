"""Where the time of a LeNet's step goes, and what kernels on prepared lists take from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from torch import Tensor

from experiments.speed.cells import lenet, pruned
from experiments.speed.pace import pace
from experiments.speed.paired import cpu_seconds, median, turns
from experiments.speed.rows import Row, at_most
from lottery.config.build import build
from lottery.pruning import masks as _masks
from lottery.pruning.masks import Masks
from lottery.training import kernels, sparse
from lottery.training.holding import Holding
from lottery.training.module_recipe import ModuleRecipe

REPEATS, CALLS, PAIRS, STEPS = 12, 50, 10, 400


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        cell = build(lenet(Path(name)))
        recipe, thin = cell.study.recipe, pruned(cell, 0.036)
        assert isinstance(recipe, ModuleRecipe)
        for what, masks in (("dense", _masks.dense(thin)), ("sparse at 3.6%", thin)):
            for part, each in times(recipe, masks).items():
                yield Row(f"LeNet, {what}: {part}, microseconds of CPU time", median(each, ".0f"))
            ours = partial(pace, recipe, masks, STEPS)
            ratios = turns(ours, patch.object(kernels, "prepared", lambda optimizer: optimizer.step)(ours), PAIRS)
            yield at_most(f"LeNet, {what}: a step on prepared lists, over one with `optimizer.step`", ratios, 1)


def times(recipe: ModuleRecipe, masks: Masks) -> dict[str, list[float]]:
    """Microseconds of each part of a step, several times; the parts take turns."""
    found = parts(recipe, masks)
    taken: dict[str, list[float]] = {part: [] for part in found}
    for _ in range(REPEATS + 1):
        for part, work in found.items():
            taken[part].append(1e6 / CALLS * cpu_seconds(partial(_often, work)))
    return {part: each[1:] for part, each in taken.items()}


def _often(work: Callable[[], object]) -> None:
    for _ in range(CALLS):
        work()


def parts(recipe: ModuleRecipe, masks: Masks) -> dict[str, Callable[[], object]]:
    """The parts of a step, each as a function that does it once more."""
    module, names = recipe.build(0), recipe.sparse_weights(masks)
    sparse.install(module.net, masks, names)
    optimizer = recipe.optimizer(module.net.parameters())
    holding = Holding(module.net, masks, across=False, elsewhere=names)
    batches = recipe.data.batches(0, 0, 10**6)
    inputs, targets = next(batches)

    def forward() -> Tensor:
        return module.loss(module(inputs), targets)

    def backward() -> None:
        optimizer.zero_grad()
        forward().backward()

    backward()
    optimizer.step()
    return {
        "gathering a batch": partial(next, batches),
        "forward and loss": forward,
        "forward, loss and backward": backward,
        "`optimizer.step`": optimizer.step,
        "the same on prepared lists": kernels.prepared(optimizer),
        "holding the masks": holding.mask_weights,
    }
