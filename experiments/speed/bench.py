"""What the framework costs, beside a bare PyTorch loop: `python -m experiments.speed.bench`, about four minutes.

Both take turns on one thread, so that whatever else the machine does hits both; a ratio above 1 means that the
framework is the faster one. Given are the median of the paired ratios and a 95 % interval of that median (order
statistics); on a busy machine the interval is wide. Only ratios may be compared between machines.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from struct import pack
from typing import Any

import pytorch_lightning
import torch
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional

from lottery import masks as _masks
from lottery.calls import make
from lottery.compose import jobs
from lottery.config import build
from lottery.launch import play
from lottery.masks import Masks
from lottery.names import Job
from lottery.progress import Progress
from lottery.recipes import Phase, Recipe, Row
from lottery.store import Store
from lottery.study import Cell, run
from lottery.training import fit

SEGMENTS, SEGMENT = 40, 200  # of the training loop alone
PAIRS, PHASE = 12, 1000  # whole phases with everything on
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class Bare:
    """The loop that one would write by hand: the same network, data and batch size, fused Adam, masks held."""

    def __init__(self, recipe: Recipe, masks: Masks) -> None:
        self.data, self.net = recipe.data, recipe.network()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1.2e-3, fused=True)
        named = dict(self.net.named_parameters())
        self.weights = [named[name] for name, mask in masks.items() if not mask.all()]
        self.masks = [mask.float() for mask in masks.values() if not mask.all()]
        self.batches = self.draw()

    def draw(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets, size = self.data.train.inputs, self.data.train.targets, self.data.batch_size
        while True:
            for chosen in torch.randperm(len(inputs)).split(size)[: len(inputs) // size]:
                yield inputs.index_select(0, chosen), targets.index_select(0, chosen)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            inputs, targets = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(self.net(inputs), targets).backward()
            self.optimizer.step()
            if self.weights:
                with torch.no_grad():
                    torch._foreach_mul_(self.weights, self.masks)

    @torch.inference_mode()
    def evaluate(self) -> None:
        for part in (self.data.val, self.data.test):
            loss = right = 0.0
            for inputs, targets in zip(part.inputs.split(2000), part.targets.split(2000), strict=True):
                outputs = self.net(inputs)
                loss += float(functional.cross_entropy(outputs, targets, reduction="sum"))
                right += int((outputs.argmax(1) == targets).sum())


def loop_alone(cell: Cell, density: float) -> list[float]:
    """Ratios over segments of `lottery.training.fit`, which trains every phase of `lottery run`."""
    recipe, masks = cell.study.recipe, pruned(cell, density)
    bare, ratios, mark = Bare(recipe, masks), list[float](), 0.0

    def watch(step: int, row: Row | None) -> None:  # called at the end of each chunk of steps
        nonlocal mark
        if step % SEGMENT == 0:
            ours, mark = time.perf_counter() - mark, time.perf_counter()
            bare.train(SEGMENT)
            ratios.append((time.perf_counter() - mark) / ours)
            mark = time.perf_counter()

    phase = Phase(recipe.network().state_dict(), masks, 0, (SEGMENTS + 1) * SEGMENT, order=0, noise=0)
    fit(recipe, phase, watch=watch, evaluate=False)
    return ratios[1:]  # the first is warming up


class Turns:
    """A view that lets the bare loop have its turn after each round."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.ratios, self.mark = cell, list[float](), 0.0

    def advanced(self, current: Any, step: int, row: Row | None) -> None:
        pass

    def finished(self, line: dict[str, Any], rows: Sequence[Row]) -> None:
        ours = time.perf_counter() - self.mark
        bare = Bare(self.cell.study.recipe, pruned(self.cell, line["density"]))
        self.mark = time.perf_counter()
        for _ in range(PHASE // 100):
            bare.train(100)
            bare.evaluate()
        self.ratios.append((time.perf_counter() - self.mark) / ours)
        self.mark = time.perf_counter()


def everything(folder: Path, data: Sequence[str]) -> list[float]:
    """Ratios over whole rounds of a cell as `lottery run` plays it, W&B offline, into store and ledger."""
    job = configured(
        folder,
        data,
        f"budget.steps={PHASE}",
        f"schedule.rounds={PAIRS}",
        "tracking.mode=offline",
        "hardware.checkpoint_seconds=1",
    )
    cell, tracker = build(job), make("tracking", job.config["tracking"])
    job.folder.mkdir(parents=True)
    tracker.open(job, job.folder)
    turns = Turns(cell)
    with redirect_stdout(io.StringIO()):
        run(cell, job.folder, Store(job.config["store"]), [Progress(cell), tracker, turns])
    tracker.close(failed=False)
    return turns.ratios[1:]  # the first is warming up


def shared_phases(folder: Path, data: Sequence[str], rounds: int = 3, steps: int = 200) -> tuple[int, int]:
    """Steps executed by three arms of one seed, and (1 + 3 R) T."""
    for arm in ("imp", "random_reinit", "random_mask"):
        with redirect_stdout(io.StringIO()):
            play(configured(folder, data, *small(rounds, steps), f"arm={arm}"))
    return executed(folder), (1 + 3 * rounds) * steps


def second_run(folder: Path, data: Sequence[str], rounds: int = 3, steps: int = 200) -> tuple[list[float], int]:
    """Seconds that the command takes for a finished cell, and the steps that it executes."""
    before, seconds = executed(folder), []
    command = [sys.executable, "-m", "lottery", "run", *overrides(folder, data), *small(rounds, steps)]
    for arm in ("imp", "random_reinit", "random_mask"):
        start = time.perf_counter()
        subprocess.run([*command, f"arm={arm}"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds, executed(folder) - before


def overrides(folder: Path, data: Sequence[str]) -> list[str]:
    return ["experiment=fc2019_lenet", *data, "hydra.mode=RUN", "seed=0", "hardware=cpu", f"out={folder}"]


def small(rounds: int, steps: int) -> list[str]:
    return [f"schedule.rounds={rounds}", f"budget.steps={steps}", "tracking.mode=disabled"]


def configured(folder: Path, data: Sequence[str], *more: str) -> Job:
    return jobs([*overrides(folder, data), *more])[0]


def executed(folder: Path) -> int:
    """Steps executed for everything in a folder's store, by whomever."""
    return sum(phase["executed"] for phase in Store(folder / "store").entries().values())


def pruned(cell: Cell, density: float) -> Masks:
    """Masks of the first round of the study's schedule that is at least so sparse."""
    net, pruning = cell.study.recipe.network(), cell.study.pruning
    weights = _masks.prunable(net)
    found, scores = _masks.dense(weights), {name: weight.detach().abs() for name, weight in weights.items()}
    for target in pruning.schedule:
        if _masks.density(found) <= density:
            break
        found = pruning.scope(scores, found, target)
    return found


def images(folder: Path) -> tuple[str, list[str]]:
    """Fashion-MNIST if it is on this machine, else random pixels in its files' format."""
    for root in (Path(os.environ.get("LOTTERY_DATA", "data")), DEBIAN):
        if any(root.glob("**/train-images-idx3-ubyte*")):
            return f"Fashion-MNIST in {root}", ["data=fashion_mnist", f"data.root={root}"]
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels, labels = torch.randint(256, (count, 28, 28)), torch.randint(10, (count,))
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.byte().numpy().tobytes())
    return "random pixels of Fashion-MNIST's shape", ["data=fashion_mnist", f"data.root={folder}"]


def median(values: Sequence[float]) -> str:
    """The median and its 95 % interval, from order statistics."""
    ranked, below = sorted(values), int(binom.ppf(0.025, len(values), 0.5))
    return f"{statistics.median(ranked):.3f} [{ranked[below - 1]:.3f}, {ranked[-below]:.3f}]"


def show(what: str, measured: str, goal: str) -> None:
    print(f"| {what:<66} | {measured:<20} | {goal:<9} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        said, data = images(folder)
        print(f"{said}; {cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; one thread")
        lightning = pytorch_lightning.__version__
        print(f"Python {platform.python_version()}, torch {torch.__version__}, Lightning {lightning}\n")
        show("LeNet-300-100, batch 60 (`experiment=fc2019_lenet`)", "measured", "goal")
        show("-" * 66, "-" * 20, "-" * 9)
        cell = build(configured(folder / "loop", data))
        for density in (1.0, 0.22):
            share = _masks.density(pruned(cell, density))
            what = f"steps/s over a bare loop, evaluation off, density {share:.0%}, n = {SEGMENTS}"
            show(what, median(loop_alone(cell, density)), ">= 0.95")
        what = f"everything on, over a bare loop that evaluates too, n = {PAIRS}"
        show(what, median(everything(folder / "everything", data)), ">= 0.90")
        done, due = shared_phases(folder / "shared", data)
        show("steps executed by imp, random_reinit, random_mask; (1 + 3 R) T", f"{done:,}", f"= {due:,}")
        seconds, trained = second_run(folder / "shared", data)
        show("second run of a finished cell, seconds, the slowest of 3", f"{max(seconds):.1f}", "< 5")
        show("steps that it trains", str(trained), "= 0")


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
