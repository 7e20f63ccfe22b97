"""What W&B costs a study: its start in a process, each run besides, each row, and a cell of the demo.

Seconds are those of the processor, W&B's own service included. Runs are offline, as they are unless a study asks for a
server. Each value is taken in a fork of this process, in which nothing of W&B is imported yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from experiments.speed.cells import quietly
from experiments.speed.paired import median, turns
from experiments.speed.rows import Row, at_most
from lottery.config.compose import cell_configs
from lottery.rounds.round import Round
from lottery.running.tracking import Tracker
from lottery.running.wandb_runs import Told, forget
from lottery.store.ledger import Line

PAIRS, TURNS = 6, 6
"""pairs of the demo's cell, and turns of made-up ones"""
CELLS, ROWS = 20, 2000
"""how many more than one are taken to tell what each costs"""
DEMO = ("experiment=demo", "hydra.mode=RUN", "arm=imp", "seed=0", "hardware=cpu")
MADE = {
    "one": (True, 1, 1), "cells": (True, 1 + CELLS, 1), "rows": (True, 1, 1 + ROWS),
    "own": (False, 1, 1), "own rows": (False, 1, 1 + ROWS),
}  # fmt: skip
"""whether W&B takes the rows, how many cells, how many rows"""


def measure() -> Iterator[Row]:
    first, further, row, own = zip(*(parts() for _ in range(TURNS)), strict=True)
    yield Row("W&B offline, CPU seconds: importing and starting it, with a process's first run", median(first, ".2f"))
    yield Row("each further run of the process", median(further, ".2f"))
    yield Row("each row, an evaluation or a round: microseconds", median([1e6 * each for each in row], ".0f"))
    yield Row("of it ours, for choosing rows and noting them as shown", median([1e6 * each for each in own], ".0f"))


def measure_demo() -> Iterator[Row]:
    """A whole cell in turn with and without W&B, each in a process of its own."""
    untracked = list[float]()

    def disabled() -> float:
        untracked.append(apart(demo, "disabled"))
        return untracked[-1]

    ratios = turns(lambda: apart(demo, "offline"), disabled, PAIRS)
    what = "A cell of the demo, alone in its process: CPU time, W&B offline over disabled"
    yield at_most(what, ratios, 1.01)
    yield Row("the same disabled: CPU seconds", median(untracked[1:], ".1f"))


def parts() -> tuple[float, ...]:
    """CPU seconds of a process's first run, of each further one, of each row, and of our part of it."""
    took = {name: apart(tracked, *made) for name, made in MADE.items()}
    return (
        took["one"],
        (took["cells"] - took["one"]) / CELLS,
        (took["rows"] - took["one"]) / ROWS,
        (took["own rows"] - took["own"]) / ROWS,
    )


def apart(work: Callable[..., None], *arguments: Any) -> float:
    """CPU seconds of work in a new folder, its first argument, in a fork of this process, and of W&B's service."""
    with get_context("fork").Pool(1) as pool, TemporaryDirectory() as folder:
        return float(pool.apply(_cpu_seconds, (work, Path(folder), *arguments)))


def _cpu_seconds(work: Callable[..., None], folder: Path, *arguments: Any) -> float:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {f"WANDB_{name}_DIR": str(folder) for name in ("CACHE", "CONFIG", "DATA")}
    before = _used()
    work(folder, *arguments)
    return _used() - before


def _used() -> float:
    every = [getrusage(each) for each in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in every)


def demo(folder: Path, mode: str) -> None:
    quietly(cell_configs([*DEMO, f"tracking.mode={mode}", f"out={folder}"])[0])
    if mode != "disabled":
        forget()  # waits for W&B's service, which counts only then


def tracked(folder: Path, real: bool, cells: int, rows: int) -> None:
    """Tracks made-up cells of one round, one after another; unless `real`, in a run that takes everything at once."""
    for seed in range(cells):
        tracker = Tracker("offline")
        if not real:
            run = SimpleNamespace(log=len, finish=lambda exit_code: None, summary={})
            tracker._init = lambda mode, run=run: run  # type: ignore[method-assign,misc]  # of this tracker
        (folder / str(seed)).mkdir()
        tracker.open(Told("demo-digits-made", "imp", seed, {"model": {"widths": [300, 100]}}), folder / str(seed))
        shown = [evaluation(index) for index in range(rows)]
        for each in shown:
            tracker.advanced(cast(Round, SimpleNamespace(index=0, first=0)), each["step"], each)
        tracker.finished(line(rows), shown)
        tracker.close(failed=False)
    if real:
        forget()


def evaluation(index: int) -> dict[str, Any]:
    """A row like the demo's."""
    keys = ("train_loss", "val_loss", "val_accuracy", "val_top5", "learning_rate", "gradient_norm")
    return {"step": 100 * (index + 1)} | {key: (index + place) / 7 for place, key in enumerate(keys)}


def line(rows: int) -> Line:
    """The ledger's line of a chain that ends with its first round."""
    layers = {"1.weight": 1.0, "3.weight": 1.0, "5.weight": 1.0}
    return Line(round=0, rounds=0, density=1.0, compression_ratio=1.0, train_steps=100 * rows, layer_densities=layers)
