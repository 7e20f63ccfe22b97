"""Measures every claim about speed: `python -m experiments.speed.bench`, about twenty minutes.

Arguments select measurements (`python -m experiments.speed.bench sparse_step compile`). Results are stored in
results.json, from which README.md is generated; rows that were not measured again keep their values and date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from experiments.speed import (
    augmentation,
    changing,
    compiled,
    equivalence,
    loop,
    open_lth,
    precision,
    projects,
    reuse,
    rows,
    selection,
    sparse_rounds,
    sweeps,
)

HERE = Path(__file__).parent
MEASUREMENTS: dict[str, Callable[[], Iterator[rows.Row]]] = {
    "loop": loop.measure,
    "resnet": loop.measure_resnet,
    "reuse": reuse.measure,
    "sparse_step": sparse_rounds.measure_step,
    "sparse_chain": sparse_rounds.measure_chain,
    "sparse_accuracy": equivalence.measure,
    "selection": selection.measure,
    "augmentation": augmentation.measure,
    "precision": precision.measure,
    "compile": compiled.measure,
    "projects": projects.measure,
    "changing": changing.measure,
    "sweeps": sweeps.measure,
    "open_lth": open_lth.measure,
}
PAGE = """# Speed

Made by `make bench`; nearly every number is a ratio of two things that took turns on the same machine, so that whatever
else it did hit both. Given are the median, its 95 % interval (order statistics; the range if there are fewer than six)
and how many ratios there were. On a busy machine intervals are wide; load is that of the last minute before and after.

Machine: {machine}; one thread a process.

{table}

## Missed, and what was tried

**A sparse step at 3.6 %.** Products are cheap: by themselves, in the loop's cache, forward takes 48 us against 316
dense, the kept weights' gradient 134 against 258, holding the mask none against 128. What stays is the same in both:
gathering the batch (47 to 80 us), turning it for the sparse product (40 to 80), some 250 us of Python round `Adam.step`
for six small tensors, autograd, the small layers. In a bare loop the step is 0.70 of the dense one (0.97 at 20 %
density, 0.87 at 9 %, 0.78 at 5 %), here 0.81. Tried without gain: MKL's products in row and column order (53 and 130
us), bags of embeddings for the gradient too (268), a batch padded to 64, a dense product with a sparse optimizer alone,
leaving the second layer dense, masking gradients in place of weights. Not tried: all weights in one flat tensor, which
would take Python's share from the dense step as well.

**A chain of 20 rounds.** Eight rounds are above the break-even of 20 %, and with an evaluation each thousand steps the
others save too little.

**bf16.** The processor has bf16 products but no AMX: a bare loop under autocast is as slow.

**Everything on.** The medians lie within 0.01 and 0.04 of the goals, their intervals on both sides of them.

**A sweep of 2,000 cells.** Measured beside other processes, as the load says. Of reading, a third is parsing JSON (a
ledger as one array, 0.6 of the time of line by line); the rest are 2,000 files, their columns and the checks of these.
All ledgers at once in place of one after the other was slower. The report's time is spread: some 0.2 s a study for the
numbers of the page, as much for tables and CSV, the bootstraps a seventh of the whole. Counting how often a resample
draws each value, in place of sorting the resamples, gained nothing.

## Rows

What each row does, line by line: [loop.py](loop.py), [reuse.py](reuse.py), [sparse_rounds.py](sparse_rounds.py),
[equivalence.py](equivalence.py), [selection.py](selection.py), [augmentation.py](augmentation.py),
[precision.py](precision.py), [compiled.py](compiled.py), [projects.py](projects.py), [changing.py](changing.py),
[sweeps.py](sweeps.py), [open_lth.py](open_lth.py).
The bare loop is [bare.py](bare.py).
LeNet is LeNet-300-100 with batch 60 on Fashion-MNIST (`experiment=fc2019_lenet`), ResNet-20 trains with batch 128 on
random pixels in CIFAR-10's form. One row or a few: `python -m experiments.speed.bench {names}`.
OpenLTH needs a checkout; [open_lth.py](open_lth.py) says how to repair and name it.
"""


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - MEASUREMENTS.keys()):
        sys.exit(f"{unknown[0]}: there is no such measurement; there are {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(1)
    found = rows.read(HERE / "results.json")
    for name in names or MEASUREMENTS:
        taken = rows.take(MEASUREMENTS[name])
        if taken.rows:
            found[name] = taken
            rows.write(HERE / "results.json", found)
            (HERE / "README.md").write_text(page(found))


def page(found: Mapping[str, rows.Measured]) -> str:
    """The README of some measurements, by name."""
    told = [found[name] for name in MEASUREMENTS if name in found]
    machines = dict.fromkeys(one.machine for one in told)
    return PAGE.format(machine="; ".join(machines), table=rows.table(told), names="sparse_step compile")


if __name__ == "__main__":
    main(sys.argv[1:])
