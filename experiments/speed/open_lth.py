"""Throughput of a chain of Frankle & Carbin (2019), compared with OpenLTH, each using the whole machine.

The variable OPEN_LTH names a checkout of github.com/facebookresearch/open_lth (of 2020; nothing newer), patched for
PyTorch 2 and NumPy 2:

    sed -i 's/abc.ABC, torch.utils.data.Dataset/torch.utils.data.Dataset, abc.ABC/' datasets/base.py
    sed -i 's/abc.ABC, torch.nn.Module/torch.nn.Module, abc.ABC/' models/base.py
    sed -i 's/np.product/np.prod/' training/optimizers.py

Ours is timed from start to end of the command: two seeds of 20 rounds of two epochs in two processes, with store,
ledger and W&B. Theirs is timed without its start, by the epochs (with one evaluation each) that it prints; they do not
get faster in later rounds, so two rounds of two epochs suffice. Fashion-MNIST is placed where it looks for MNIST.
"""

from __future__ import annotations

import gzip
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.speed.cells import command, executed, fashion
from experiments.speed.paired import median, seconds
from experiments.speed.rows import Row, at_least

TURNS, ROUNDS, EPOCHS = 2, 20, 2
THEIR_EPOCH = 1000  # steps: 60,000 images in batches of 60; ours keeps 5,000 for validation
THEIRS = (
    "open_lth.py lottery --default_hparams mnist_lenet_300_100 --levels 1 --training_steps 2ep --batch_size 60 "
    "--optimizer_name adam --lr 1.2e-3 --replicate 1"
)


def measure() -> Iterator[Row]:
    if "OPEN_LTH" not in os.environ:
        print("left out: OPEN_LTH names no checkout of OpenLTH (experiments/speed/open_lth.py says how to make one)")
        return
    as_it_comes, by_hand, own = list[float](), list[float](), list[float]()
    with TemporaryDirectory() as name:
        homes = (Path(name) / f"open_lth{number}" for number in count())
        for turn in range(TURNS):
            own.append(ours(Path(name) / f"ours{turn}"))
            as_it_comes.append(own[-1] / theirs(next(homes)))  # all threads; it trains its seeds one after another
            with ThreadPoolExecutor(2) as both:
                rates = both.map(lambda home: theirs(home, OMP_NUM_THREADS="1"), [next(homes), next(homes)])
                by_hand.append(own[-1] / sum(rates))
    what = f"LeNet, two seeds x {ROUNDS} rounds x {EPOCHS} epochs, evaluation each epoch: steps/s"
    yield at_least(f"{what}, over OpenLTH as it comes", as_it_comes, 10, ".1f")
    yield at_least(f"{what}, over two OpenLTH with one thread each", by_hand, 6, ".1f")
    yield Row(f"{what}, start and end included", median(own, ".0f"))


def ours(folder: Path) -> float:
    """Steps per second of one command, startup included."""
    more = ["hydra.mode=MULTIRUN", "hydra.sweeper.params=null", "arm=imp", "seed=0,1", "hydra/launcher=local"]
    chain = [f"schedule.rounds={ROUNDS}", f"budget.steps={EPOCHS}ep", "budget.evaluate=1ep"]
    line = [sys.executable, "-m", "lottery", "run", *command(folder, *chain, *more)]
    taken = seconds(lambda: subprocess.run(line, check=True, capture_output=True))
    return executed(folder) / taken


def theirs(home: Path, **environment: str) -> float:
    """Steps per second of one OpenLTH process; it stores everything in its home folder."""
    files = home / "open_lth_datasets/mnist/MNIST/raw"
    files.mkdir(parents=True)
    for path in Path(fashion()[1].removeprefix("data.root=")).glob("**/*-ubyte*"):
        content = path.read_bytes()
        (files / path.name.removesuffix(".gz")).write_bytes(
            gzip.decompress(content) if path.suffix == ".gz" else content
        )
    done = subprocess.run(
        [sys.executable, *THEIRS.split()],
        cwd=os.environ["OPEN_LTH"],
        env={**os.environ, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"OpenLTH: {done.stderr.strip().splitlines()[-1]}")
    epochs = [float(taken) for taken in re.findall(r"^test.*time ([0-9.]+)s$", done.stdout, re.MULTILINE)]
    return THEIR_EPOCH / statistics.mean(taken for taken in epochs if taken)  # no epoch precedes the first
