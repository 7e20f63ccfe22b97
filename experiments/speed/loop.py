"""The framework's overhead over a bare loop, for the training loop alone and with everything on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn
from torch.optim import Optimizer

from experiments.speed.bare import Bare, adam, sgd
from experiments.speed.cells import lenet, pruned, resnet20
from experiments.speed.rows import Row, at_least
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.nodes import make
from lottery.pruning import masks as _masks
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.running.progress import Progress
from lottery.store.entries import Store
from lottery.training.fit import fit
from lottery.training.phase import Phase
from lottery.training.recipes import Row as Line

SEGMENTS, SEGMENT = 40, 200  # segments, and the fewest steps in each, for the training loop alone


def measure() -> Iterator[Row]:
    """LeNet-300-100, batch 60."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        cell = build(lenet(folder, "numerics.sparse=off"))
        for density, goal in ((1.0, 1.10), (0.22, 1.15)):
            share = _masks.density(pruned(cell, density))
            what = f"LeNet: steps/s over a bare loop, evaluation off, density {share:.0%}"
            yield at_least(what, loop_alone(cell, density), goal)


def measure_everything() -> Iterator[Row]:
    """The same with evaluations, checkpoints, store, ledger and W&B offline."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        more = ["budget.steps=1000", "schedule.rounds=12", "numerics.sparse=off"]
        ratios = everything(lenet(folder, *more, "hardware.checkpoint_seconds=1"), adam, steps=1000, evaluate=100)
        yield at_least("LeNet: everything on, over a bare loop that evaluates too", ratios, 1.0)


def measure_resnet() -> Iterator[Row]:
    """ResNet-20, batch 128, 3x32x32, crops and flips, SGD with momentum and weight decay."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        more = ["budget.steps=12", "budget.recipe_steps=12", "budget.evaluate=12", "schedule.rounds=8"]
        ratios = everything(resnet20(folder, *more), sgd, steps=12, evaluate=12)
        yield at_least("ResNet-20: everything on, over a bare loop that augments and evaluates too", ratios, 0.97)


def loop_alone(cell: Cell, density: float) -> list[float]:
    """CPU time ratios to `lottery.training.fit.fit`, which trains every phase of `lottery run`, one per segment."""
    recipe, masks = cell.study.recipe, pruned(cell, density)
    bare, ratios, begun, mark = Bare(recipe, masks, adam), list[float](), 0, 0.0

    def watch(step: int, row: Line | None) -> None:  # called at the end of each chunk, whose length depends on the pace
        nonlocal begun, mark
        if step - begun >= SEGMENT:
            ours, mark = time.process_time() - mark, time.process_time()
            bare.train(step - begun)
            ratios.append((time.process_time() - mark) / ours)
            begun, mark = step, time.process_time()

    phase = Phase(recipe.network().state_dict(), masks, 0, (SEGMENTS + 1) * SEGMENT, order=0, noise=0)
    fit(recipe, phase, watch=watch, evaluate=False)
    return ratios[1:]  # the first is a warm-up


@dataclass
class Turns:
    """A view that runs the bare loop after each round, so that both take turns."""

    cell: Cell
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    steps: int
    evaluate: int
    ratios: list[float] = field(default_factory=list)
    mark: float = 0.0

    def advanced(self, current: Any, step: int, row: Line | None) -> None:
        pass

    def finished(self, line: Mapping[str, Any], rows: Sequence[Line]) -> None:
        ours = time.perf_counter() - self.mark
        bare = Bare(self.cell.study.recipe, pruned(self.cell, line["density"]), self.optimizer)
        self.mark = time.perf_counter()
        for _ in range(self.steps // self.evaluate):
            bare.train(self.evaluate)
            bare.evaluate()
        self.ratios.append((time.perf_counter() - self.mark) / ours)
        self.mark = time.perf_counter()


def everything(
    job: CellConfig, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer], steps: int, evaluate: int
) -> list[float]:
    """Time ratios to whole rounds of a cell as `lottery run` executes it, with store, ledger and W&B offline."""
    cell, tracker = build(job), make("tracking", job.config["tracking"])
    job.folder.mkdir(parents=True)
    tracker.open(job, job.folder)
    turns = Turns(cell, optimizer, steps, evaluate)
    with redirect_stdout(StringIO()):
        record_cell(cell, job.folder, Store(job.config["store"]), [Progress(cell, job.folder), tracker, turns])
    tracker.close(failed=False)
    return turns.ratios[1:]  # the first is a warm-up
