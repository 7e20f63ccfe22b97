"""Every row that needs a GPU, in under ten minutes: `python -m experiments.speed.gpu` writes gpu.md beside this file.

Each case trains a few steps on the GPU and on the CPU, and the two must agree; then its steps are timed in turn with
those of the case that it is compared with. Tests run it with the CPU in the GPU's place.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from experiments.speed import rows
from experiments.speed.cells import lenet, pruned, resnet20
from experiments.speed.pace import pace
from experiments.speed.paired import median
from experiments.speed.rows import Row, at_most
from lottery.config.build import build
from lottery.foundations.errors import describe
from lottery.foundations.seeds import seeded
from lottery.pruning.masks import Masks, dense
from lottery.rounds.study import Cell
from lottery.training.fit import fit
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.numerics import Numerics
from lottery.training.phase import Phase

T = TypeVar("T")

HERE = Path(__file__).parent
PATIENCE = 90
"""seconds for processes to start, import PyTorch and train"""
NONE = "no GPU: PyTorch finds none on this machine, and every row here needs one"
PAGE = """# Speed on a GPU

Made by `python -m experiments.speed.gpu`. A ratio is of steps a second, taken in turn on the same GPU; given are its
median, the 95 % interval and how many there were. "Off the CPU's" is the distance between the weights after {checked}
steps here and on the CPU in 32 bits, over the distance that those have travelled; its goal is the tolerance.

Machine: {machine}.

{table}
"""


@dataclass(frozen=True)
class Case:
    """A training that is measured."""

    name: str
    recipe: ModuleRecipe
    masks: Masks
    tolerance: float
    """the most that its weights may be off the CPU's"""
    over: Case | None = None
    """what its speed is compared with"""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int
    pairs: int = 8
    seconds: float = 40.0
    """the longest that the pairs of one row should take; three are taken in any case"""
    checked: int = 5
    """steps after which weights are compared: rounding grows from step to step"""


LENET, RESNET = Size(steps=1000), Size(steps=150)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(NONE)
    taken = [rows.take(each) for each in (measure_lenet, measure_resnet)]
    machine = f"{torch.cuda.get_device_name()}; {rows.machine()}"
    (HERE / "gpu.md").write_text(PAGE.format(checked=LENET.checked, machine=machine, table=rows.table(taken)))
    sys.exit(int(any(row.verdict in ("missed", "failed") for one in taken for row in one.rows)))


def measure_lenet() -> Iterator[Row]:
    """LeNet-300-100 with batch 60, whose steps are bound by launches; and several workers on one GPU."""
    with TemporaryDirectory() as name:
        cases = lenets(build(lenet(Path(name))))
        yield from measure(cases, "gpu", LENET)
        for count in (2, 4):
            yield from attempted(f"{count} workers", workers(cases[0], "gpu", LENET, count))


def measure_resnet() -> Iterator[Row]:
    """ResNet-20 with batch 128, in the ways that a GPU may like better."""
    with TemporaryDirectory() as name:
        yield from measure(resnets(build(resnet20(Path(name)))), "gpu", RESNET)


def lenets(cell: Cell) -> list[Case]:
    """A network dense, under masks, and with its linear layers on their kept values alone."""
    recipe, thin = _recipe(cell, sparse="off"), pruned(cell, 0.036)
    whole = Case("LeNet, dense", recipe, dense(thin), 0.01)
    masked = Case("LeNet, masks at 3.6 %", recipe, thin, 0.01, whole)
    return [whole, masked, Case("LeNet, sparse at 3.6 %", _recipe(cell, sparse="on"), thin, 0.01, masked)]


def resnets(cell: Cell) -> list[Case]:
    """A convolutional network by each of the settings of numerics. Its convolutions round to TF32, as PyTorch's do."""
    masks = dense(pruned(cell, 1.0))
    eager = Case("ResNet-20, eager", _recipe(cell), masks, 0.1)
    more: Sequence[tuple[str, float, dict[str, Any]]] = (
        ("channels_last", 0.1, {"channels_last": True}),
        ("bf16", 0.3, {"precision": "bf16-mixed"}),
        ("bf16 and channels_last", 0.3, {"precision": "bf16-mixed", "channels_last": True}),
        ("compiled", 0.1, {"compile": True}),
    )
    return [eager, *(Case(f"ResNet-20, {what}", _recipe(cell, **how), masks, off, eager) for what, off, how in more)]


def measure(cases: Sequence[Case], accelerator: str, size: Size) -> Iterator[Row]:
    """The rows of all cases."""
    for case in cases:
        yield from attempted(case.name, checked(case, accelerator, size))
        yield from attempted(case.name, timed(case, accelerator, size))


def attempted(what: str, found: Iterator[Row]) -> Iterator[Row]:
    """Rows; where they fail, that is a row too, and others are still taken."""
    try:
        yield from found
    except Exception as error:
        yield Row(what, describe(error), verdict="failed")


def checked(case: Case, accelerator: str, size: Size) -> Iterator[Row]:
    """How far a training is off the CPU's."""
    yield at_most(f"{case.name}: off the CPU's", [difference(case, accelerator, size.checked)], case.tolerance)


def difference(case: Case, accelerator: str, steps: int) -> float:
    """The distance between the weights trained on a device and on the CPU in 32 bits, over that to their start."""
    with seeded(0):
        start = case.recipe.network().state_dict()
    plain = replace(case.recipe, numerics=Numerics(sparse="off"))
    recipes = _on(case.recipe, accelerator), _on(plain, "cpu")
    ends = [fit(each, _phase(each, case.masks, start, steps), evaluate=False).state for each in recipes]
    there, here = (_weights(case, end) for end in ends)
    apart, travelled = torch.dist(there, here), torch.dist(here, _weights(case, start) * _kept(case))
    return float(apart / travelled)


def timed(case: Case, accelerator: str, size: Size) -> Iterator[Row]:
    """Microseconds of a step, and how many times as many steps a second as the case that it is compared with."""
    ours = partial(_seconds, _on(case.recipe, accelerator), case.masks, size.steps)
    if case.over is None:
        steps = _within(ours, size)
    else:
        theirs = partial(_seconds, _on(case.over.recipe, accelerator), case.over.masks, size.steps)
        pairs = _within(lambda: (theirs(), ours()), size)
        yield Row(f"{case.name}: steps/s over {case.over.name}", median([other / own for other, own in pairs]))
        steps = [own for _, own in pairs]
    yield Row(f"{case.name}: microseconds a step", median([1e6 * each for each in steps], ".0f"))


def _within(take: Callable[[], T], size: Size) -> list[T]:
    """Measurements after one for warming up: as many as `size` allows, and at least three."""
    take()
    begun, taken = time.monotonic(), list[T]()
    while len(taken) < size.pairs and (len(taken) < 3 or time.monotonic() - begun < size.seconds):
        taken.append(take())
    return taken


def workers(case: Case, accelerator: str, size: Size, count: int) -> Iterator[Row]:
    """Steps a second of several processes that train on one GPU at once, over those of one alone."""
    one, all_ = (together(case, accelerator, size, each) for each in (1, count))
    yield Row(f"{case.name}: {count} workers on one GPU, steps/s of all over one alone", f"{all_ / one:.2f}, 1")


def together(case: Case, accelerator: str, size: Size, count: int) -> float:
    """Steps a second of so many processes together. Raises RuntimeError if one of them fails."""
    spawn = multiprocessing.get_context("spawn")
    ready, paces = spawn.Barrier(count), spawn.Queue()
    given = (case, accelerator, size, ready, paces)
    # a name without a number, by which workers of a sweep share out a machine's GPUs
    processes = [spawn.Process(target=_work, args=given, name="worker") for _ in range(count)]
    try:
        for process in processes:
            process.start()
        return sum(1 / paces.get(timeout=PATIENCE) for _ in processes)
    except Empty as error:
        raise RuntimeError(f"one of {count} workers did not train within {PATIENCE} s") from error
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(case: Case, accelerator: str, size: Size, ready: Any, paces: Any) -> None:
    recipe = _on(case.recipe, accelerator)
    _seconds(recipe, case.masks, size.steps)  # pays for what is loaded at first use
    ready.wait(PATIENCE)
    paces.put(statistics.median(_seconds(recipe, case.masks, size.steps) for _ in range(3)))


def _recipe(cell: Cell, **numerics: Any) -> ModuleRecipe:
    recipe = cell.study.recipe
    assert isinstance(recipe, ModuleRecipe)
    return replace(recipe, numerics=replace(recipe.numerics, **numerics))


def _on(recipe: ModuleRecipe, accelerator: str) -> ModuleRecipe:
    return replace(recipe, hardware=replace(recipe.hardware, accelerator=accelerator))


def _seconds(recipe: ModuleRecipe, masks: Masks, steps: int) -> float:
    # the loop reads the losses at the end of each chunk, and so waits for the GPU
    return pace(recipe, masks, steps, time.perf_counter)


def _phase(recipe: ModuleRecipe, masks: Masks, start: dict[str, torch.Tensor], steps: int) -> Phase:
    return Phase(start, masks, 0, steps, order=0, noise=0, sparse=recipe.sparse_weights(masks))


def _weights(case: Case, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([state[name].detach().flatten() for name, _ in case.recipe.net.named_parameters()])


def _kept(case: Case) -> torch.Tensor:
    """The masks in one vector as `_weights` has it, one for what has none."""
    parts = [case.masks.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in case.recipe.net.named_parameters()]
    return torch.cat([part.flatten() for part in parts])


if __name__ == "__main__":
    main()
