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
    channels,
    compiled,
    equivalence,
    loop,
    open_lth,
    parts,
    precision,
    projects,
    refitting,
    reuse,
    rows,
    selection,
    sparse_rounds,
    start,
    sweeps,
)

HERE = Path(__file__).parent
MEASUREMENTS: dict[str, Callable[[], Iterator[rows.Row]]] = {
    "loop": loop.measure,
    "everything": loop.measure_everything,
    "parts": parts.measure,
    "resnet": loop.measure_resnet,
    "reuse": reuse.measure,
    "start": start.measure,
    "sparse_step": sparse_rounds.measure_step,
    "sparse_chain": sparse_rounds.measure_chain,
    "sparse_accuracy": equivalence.measure,
    "selection": selection.measure,
    "augmentation": augmentation.measure,
    "precision": precision.measure,
    "compile": compiled.measure,
    "projects": projects.measure,
    "changing": changing.measure,
    "channels": channels.measure,
    "refitting": refitting.measure,
    "sweeps": sweeps.measure,
    "open_lth": open_lth.measure,
}
PAGE = """# Speed

Made by `make bench`; every number is a ratio of two things that took turns on the same machine, so that whatever else
it did hit both, unless it says seconds. Given are the median, its 95 % interval (order statistics; the range if there
are fewer than six) and how many ratios there were. On a busy machine intervals are wide; load is that of the last
minute before and after. The loop alone and sparse steps are compared by CPU time, which other jobs affect less.

Machine: {machine}; one thread
a process.

{table}

## Where a step's time goes

`optimizer.step` builds lists of six small tensors anew at each step. The loop builds them once a chunk and calls the
same fused kernel, bit for bit (`lottery/training/kernels.py`): rows "on prepared lists". What is left
of a dense step is products; of a sparse one products, autograd and the small layers.

Tried without gain: gathering the batches of a whole chunk at once. A sparse step took 0.892 [0.822, 1.074] of its time
with a hundred batches gathered together and 1.032 [0.885, 1.193] with ten, a masked one 0.972 [0.824, 1.153] and 0.975
[0.929, 1.087], ten ratios each: too little to tell from none.

## Start of a command

A typo no longer imports PyTorch. In turn with the version before, four runs of each, CPU time over that of `import
torch`: a typo in a name 1.09 before and 0.17 after, in a key 1.08 and 0.27, the help 0.08 and 0.08, the demo's plan
3.73 and 3.77. Most of the plan is importing PyTorch and Lightning: torchmetrics imports SciPy's signals, matplotlib
and torchvision where they are installed. The goals (0.5 s for the help, 5 s for the plan, 4 s to the first step) were
set for a machine three to five times as fast: here, beside other jobs, `import torch` takes 10 s by the clock, the
help 1.0, the plan 35 to 44. The first step was not measured.

## Missed, and what was tried

**A sparse step at 3.6 %.** Its update takes a sixth of what it took, but the dense one's gains too. What stays is the
same in both: gathering the batch, turning it for the sparse product, autograd, the small layers. Tried without gain:
MKL's products in row and column order, bags of embeddings for the gradient too, gradients of kept values from gathered
rows (three times as slow as `sampled_addmm`), a batch padded to 64, a dense product with a sparse optimizer alone,
leaving the second layer dense, masking gradients in place of weights. Not tried: all weights in one flat tensor.

**A chain of 20 rounds.** Eight rounds are above the break-even of 20 %, and with an evaluation each thousand steps the
others save too little. It was not measured again with prepared lists.

**Everything on.** LeNet's median lies above its goal, which is inside the interval. ResNet-20 was not measured again.

**A Lightning project.** Before CUDA is initialised, `torch.manual_seed` notes a stack trace for each kind of device;
without it the row went from 0.70 to 0.92. By a profile, what is left of the difference are the hooks of two callbacks,
the seeds of a batch and of a step, and the masks, about a third each.

**bf16.** The processor has bf16 products but no AMX: a bare loop under autocast is as slow.

**Whatever needs a GPU** is taken by `python -m experiments.speed.gpu` ([gpu.py](gpu.py)), which has run in tests only.

**A sweep of 2,000 cells.** Measured beside other processes, as the load says. Of reading, a third is parsing JSON (a
ledger as one array, 0.6 of the time of line by line); the rest are 2,000 files, their columns and the checks of these.
All ledgers at once in place of one after the other was slower. The report's time is spread: some 0.2 s a study for the
numbers of the page, as much for tables and CSV, the bootstraps a seventh of the whole. Counting how often a resample
draws each value, in place of sorting the resamples, gained nothing.

## Rows

What each row does, line by line: [loop.py](loop.py), [parts.py](parts.py), [reuse.py](reuse.py),
[start.py](start.py), [sparse_rounds.py](sparse_rounds.py), [equivalence.py](equivalence.py),
[selection.py](selection.py), [augmentation.py](augmentation.py), [precision.py](precision.py),
[compiled.py](compiled.py), [projects.py](projects.py), [changing.py](changing.py), [channels.py](channels.py),
[refitting.py](refitting.py), [sweeps.py](sweeps.py), [open_lth.py](open_lth.py).
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
    days: dict[str, set[str]] = {}
    for one in told:
        days.setdefault(one.machine, set()).add(one.date.partition(" ")[0])
    machines = (f"{name}, for rows of {' and '.join(sorted(dates))}" for name, dates in days.items())
    return PAGE.format(machine=";\n".join(machines), table=rows.table(told), names="sparse_step compile")


if __name__ == "__main__":
    main(sys.argv[1:])
