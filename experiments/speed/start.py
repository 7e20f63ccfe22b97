"""What a command costs before it trains: its CPU time over that of `import torch` on the same machine."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

from experiments.speed.paired import median
from experiments.speed.rows import Row

TIMES = 3
TORCH = ("-c", "import torch")
FIRST_STEP = """
import os, sys
from lottery.training.loop import Loop
Loop.advance = lambda *_: os._exit(0)
from lottery.commands.main import main
sys.argv = ["lottery", "run", "experiment=demo", "hydra.mode=RUN"]
main()
"""
COMMANDS = {
    "`lottery --help`": ("-m", "lottery", "--help"),
    "a typo in a name": ("-m", "lottery", "run", "experiment=dmo"),
    "a typo in a key": ("-m", "lottery", "run", "experiment=demo", "optimizer.lrr=0.1"),
    "`--plan` of the demo": ("-m", "lottery", "run", "experiment=demo", "--plan"),
    "a cell of the demo, up to its first step": ("-c", FIRST_STEP),
    "`import pytorch_lightning`": ("-c", "import pytorch_lightning"),
}


def measure() -> Iterator[Row]:
    """Each command in turn with `import torch`; the first turn warms the disk."""
    taken: dict[str, list[float]] = {what: [] for what in COMMANDS}
    torch = list[float]()
    for _ in range(TIMES + 1):
        torch.append(used(*TORCH))
        for what, command in COMMANDS.items():
            taken[what].append(used(*command) / torch[-1])
    yield Row("`import torch`: seconds of CPU time", median(torch[1:], ".1f"))
    for what, ratios in taken.items():
        yield Row(f"{what}: CPU time over that of `import torch`", median(ratios[1:], ".2f"))


def used(*arguments: str) -> float:
    """Seconds of CPU time of a Python process, in an empty folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
