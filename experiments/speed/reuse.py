"""Reuse: phases shared by arms are trained once, and finished cells are not run again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.speed.cells import command, executed, lenet, quietly
from experiments.speed.paired import seconds
from experiments.speed.rows import Row, at_most, exactly

ARMS, ROUNDS, STEPS = ("imp", "random_reinit", "random_mask"), 3, 200


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        more = [f"schedule.rounds={ROUNDS}", f"budget.steps={STEPS}", "tracking.mode=disabled"]
        for arm in ARMS:
            quietly(lenet(folder, *more, f"arm={arm}"))
        before, due = executed(folder), (1 + len(ARMS) * ROUNDS) * STEPS
        yield exactly("steps executed by imp, random_reinit, random_mask; (1 + 3 R) T", before, due)
        times = [seconds(partial(again, folder, *more, f"arm={arm}")) for arm in ARMS]
        yield at_most("the command again for a finished cell, seconds", times, 5, ".1f")
        yield exactly("steps that it trains", executed(folder) - before, 0)


def again(folder: Path, *settings: str) -> None:
    line = [sys.executable, "-m", "lottery", "run", *command(folder, *settings)]
    subprocess.run(line, check=True, capture_output=True)
