"""Sparse training: time saved per step, and in a whole chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.speed.bare import Bare, adam
from experiments.speed.cells import lenet, pruned, quietly
from experiments.speed.pace import pace
from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row, at_most
from lottery.config.build import build
from lottery.pruning import masks as _masks

STEP_PAIRS, CHAIN_PAIRS, STEPS, BARE_STEPS = 20, 3, 1000, 500


def measure_step() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        cell = build(lenet(folder))
        recipe, masks = cell.study.recipe, pruned(cell, 0.036)
        off = replace(recipe, numerics=replace(recipe.numerics, sparse="off"))
        ratios = turns(lambda: pace(recipe, masks), lambda: pace(off, masks), STEP_PAIRS)
        share = f"{_masks.density(masks):.1%}"
        yield at_most(f"LeNet at density {share}: a step, numerics.sparse=auto over off", ratios, 0.45)
        bare = Bare(recipe, masks, adam)
        ratios = turns(
            lambda: pace(recipe, masks), lambda: cpu_seconds(lambda: bare.train(BARE_STEPS)) / BARE_STEPS, STEP_PAIRS
        )
        yield at_most(f"LeNet at density {share}: a step, numerics.sparse=auto over a bare masked loop's", ratios, 0.40)


def measure_chain(rounds: int = 20) -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        more = [
            f"schedule.rounds={rounds}",
            f"budget.steps={STEPS}",
            f"budget.evaluate={STEPS}it",
            "tracking.mode=disabled",
        ]
        numbers = count()

        def chain(sparse: str) -> float:
            job = lenet(folder / str(next(numbers)), *more, f"numerics.sparse={sparse}")
            return cpu_seconds(lambda: quietly(job))

        ratios = turns(lambda: chain("auto"), lambda: chain("off"), CHAIN_PAIRS, warmups=0)
        what = f"LeNet: a chain of {rounds} rounds of {STEPS:,} steps and an evaluation, numerics.sparse=auto over off"
        yield at_most(what, ratios, 0.65)
