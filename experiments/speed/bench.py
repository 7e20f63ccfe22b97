"""Measures every claim about speed: `python -m experiments.speed.bench`, about an hour.

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
    break_even,
    changing,
    channels,
    compiled,
    equivalence,
    loop,
    open_lth,
    parts,
    precision,
    profiles,
    projects,
    refitting,
    reuse,
    rows,
    selection,
    sparse_rounds,
    start,
    sweeps,
    tracking,
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
    "break_even": break_even.measure,
    "sparse_chain": sparse_rounds.measure_chain,
    "sparse_accuracy": equivalence.measure,
    "selection": selection.measure,
    "augmentation": augmentation.measure,
    "precision": precision.measure,
    "compile": compiled.measure,
    "projects": projects.measure,
    "changing": changing.measure,
    "channels": channels.measure,
    "channels_chain": channels.measure_chains,
    "channels_steps": channels.measure_steps,
    "refitting": refitting.measure,
    "sweeps": sweeps.measure,
    "tracking": tracking.measure,
    "tracked_demo": tracking.measure_demo,
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

![A bare loop's step and ours, by part](profile.png)

{profile}

Medians, from [profile.csv](profile.csv), which has intervals. Each loop runs as it is, with a clock around what it
calls ([parts.py](parts.py)). `optimizer.step` builds lists of six small tensors anew at each step; the loop builds them
once a chunk and calls the same fused kernel, bit for bit (`lottery/training/kernels.py`). What is left of a dense step
is products; of a sparse one products, autograd and the small layers.

Tried without gain: gathering the batches of a whole chunk at once. A sparse step took 0.892 [0.822, 1.074] of its time
with a hundred batches gathered together and 1.032 [0.885, 1.193] with ten, a masked one 0.972 [0.824, 1.153] and 0.975
[0.929, 1.087], ten ratios each: too little to tell from none.

Tried and left: five seeds of an arm in one program, weights stacked and multiplied by `baddbmm`. A dense step under
masks took 0.84 [0.82, 0.87] of five steps one after the other (12 ratios, one thread, load 12). Rounds that train
sparse, in 0.62 of a dense step, could not join, since each seed keeps other weights; and every bit would change.

## Where a sparse layer pays

The rule (`lottery/training/sparse.py`) takes layers of at least 16,384 weights under 20 % density. By the rows "A layer
of" it is wrong in two places. Layers of 16,384 to 30,000 weights lose: 128 to 128 at every density, up to 31 % of their
step, 300 to 100 above 10 %, up to 15 %; the least size should be near 65,536. Layers of 200,000 weights and more would
still gain at 25 %, 12 to 25 % of their step. The rule stays: a round's choice is part of its key, so that nothing old
would be taken for new, but the last bits of every thin round of LeNet-300-100 would move. By these rows it would gain
2 % of a step in the three rounds between 10 and 20 % and under 10 % in the two at 21 and 26 %: about 1 % of a chain of
twenty rounds. `numerics.sparse=off` is there for networks of small layers.

## Start of a command

A typo does not import PyTorch. Digits are read without importing scikit-learn, which took 0.7 CPU seconds, and the plan
checks one cell of each arm, 0.3 s less. Against the version before, in turn, CPU seconds under a load of 12 to 14, with
a stand-in for SciPy's signals besides, which torchmetrics imports for one name (1.3 s; not kept, since it put another
module in the place of one of SciPy's for a while): the demo's plan 9.9, 10.1 and 9.8 before, 8.3 and 8.3 after; a cell
of the demo up to its first step 7.5 and 7.6 before, 6.2 and 6.0 after; the help 0.2, as before. Of what is left before
a first step, `import torch` has 2.6 s and `torch._dynamo`, which PyTorch imports as soon as an optimizer is made, 2.1
s. torchmetrics imports matplotlib and torchvision too; a plan for which it took them to be missing was 0.6 s faster,
but then metrics of users' own that plot or detect would fail. By the rows above, with no other job, the help has 0.2 s,
a cell up to its first step 5.7 s and the demo's plan 7.4 s: the goal of 0.5 s is met, those of 4 s to the first step
and 5 s for the plan are missed.

**The command again for a finished cell** meets its goal now; it took 5.1 s before. By a profile its report has four
fifths of the time: importing matplotlib and drawing the same figure as PNG, SVG and PDF more than half of all,
importing pandas a tenth.

## Missed, and what was tried

**A sparse step at 3.6 %.** Its update takes a sixth of what it took, but the dense one's gains too. What stays is the
same in both: gathering the batch, turning it for the sparse product, autograd, the small layers. Tried without gain:
MKL's products in row and column order, bags of embeddings for the gradient too, gradients of kept values from gathered
rows (three times as slow as `sampled_addmm`), a batch padded to 64, a dense product with a sparse optimizer alone,
leaving the second layer dense, masking gradients in place of weights. Not tried: all weights in one flat tensor. Taken
apart, of 1,190 microseconds of a step without the loop the first layer's three kernels have 160 (turning the batch 32,
the bag 43, `sampled_addmm` 83), the second layer 270, the last layer and the loss 230, gathering 50, the update 40; the
rest is autograd and Python between them. Nothing in it is cheap to take away.

**A chain of 20 rounds.** With prepared lists it takes 0.76 of the dense one's time, 0.98 before. The dense round and
the first eight pruned ones are above the break-even of 20 %. If each of the other twelve took what a step at 3.6 %
does, 0.56, all would take 0.75, so that the goal is out of reach without another rule and a faster step.

**Everything on.** ResNet-20's median lies below its goal, which is inside the interval.

**A Lightning project.** Before CUDA is initialised, `torch.manual_seed` notes a stack trace for each kind of device;
without it the row went from 0.70 to 0.92. Hooks that asked Lightning for the step where masks do not change no longer
do: 0.956, beside a dozen other jobs. What later had to be asked at each batch, so that a resume loses nothing, may have
cost it again: 0.918 beside three; that masks were held twice a step until then was no part of it, since without it the
row is 0.88, up to 1.01, beside six, and 0.90, up to 0.99, beside two. None was taken in turn with the version before,
so that it is open how much of each is theirs. Alone on the machine it is 0.939. What is left are hooks of two
callbacks, the seeds of a batch and of a step, which are in every result, and the masks.

**Channels of a ResNet-18.** In turn with the version before, on the same machine, 1.7 CPU seconds where that had 2.8:
0.63 of its time [0.60, 0.67], six ratios. A search by multiply-adds on top of it misses its goal. What is written is
now compared as it is in evaluation mode and its own precision, and in float64 only where rounding adds up; with other
biases and normalisation both modes stay in float64, which has most of what is left. What a budget costs is counted
from shapes in place of twenty networks; the rest of such a search is the scope's ranking, twenty times.

**Rounds of channels.** The chain's steps alone, without anything that a round costs besides, have 0.71 of the dense
ones' time, so that 0.6 is out of reach at these sizes, however many steps a round has. The
products and their backward passes come in blocks of eight channels: by a scan of one ResNet-20, 64 % of its parameters
(13 channels of 16) take 0.91 of a dense step, 56 % (12 of 16) 0.73, 36 % (10) 0.64, 25 % (8) 0.33.
`structure.multiple=8`, with other masks of round numbers of channels, comes to 0.60. `numerics.channels_last` makes
both faster, dense to 0.78 and a quarter of the parameters to 0.24, and their ratio little better.

**bf16.** The processor has no fast bf16 products: a bare loop under autocast is nearly as slow.

**Masks that change.** Taken apart when a hundred steps of LeNet took 0.27 s, an update had 22 ms of CPU time (RigL) or
11 (gradual pruning), most of it for choosing what goes and what grows in 266,200 weights, several times over for each
layer. It was 26 and 16: a third were stack traces that `torch.manual_seed` notes for kinds of devices that are not
there. It costs as much for each weight in any network, so that where a hundred steps take minutes, as in the papers, it
is far below the goal; that was not measured.

**OpenLTH by hand.** Two of its processes, each with one thread, are the most that it makes of two cores. Theirs is
timed without its start; ours from the start of the command to its end, with the imports, the store, the report and its
figures.

**Whatever needs a GPU** is taken by `python -m experiments.speed.gpu` ([gpu.py](gpu.py)), which has run in tests only.

**A sweep of 2,000 cells** meets its goals on an idle machine; beside other processes it took 2.7 and 13.5 s. Of
reading, a third is parsing JSON (a ledger as one array, 0.6 of the time of line by line); the rest are 2,000 files,
their columns and the checks of these. All ledgers at once in place of one after the other was slower. The report's time
is spread: some 0.2 s a study for the numbers of the page, as much for tables and CSV, the bootstraps a seventh of the
whole. Counting how often a resample draws each value, in place of sorting the resamples, gained nothing.

**Least squares on VGG-16** met its goal once half of each symmetric product is computed, and patches of pictures are
taken only at the positions that are read; it took 161 s before.

## What W&B costs

Offline, which is the default; a server was not measured. The goal is 1 % of a study's time, and a study as small as
the demo misses it, one cell in a process of its own by 15 % [8, 21]: nearly all of what it pays is W&B's start, once a
process, and its own list of installed packages, once a run. A row, one for each evaluation and each round, costs far
less than 1 % of the hundred steps of `experiment=fc2019_lenet` between two of them, by the rows on its step. So the
goal is met once a process has trained for a little more than a hundred times what its start takes, and for each further
run a hundred times what that takes; no study of that length was timed. W&B's own process took 2 to 3 ms of CPU time a
second besides while a run was open (twice 30 s without a row), on whichever core is free.

Ours of a row was 0.28 ms [0.23, 0.33] (8 turns, load about 10): a new file, renamed over the note of what has been
shown, for which ext4 writes to disk at once, 2.7 ms by the clock. The note is now written in place, in one write.

## Rows

What each row does, line by line: [loop.py](loop.py), [parts.py](parts.py), [reuse.py](reuse.py),
[start.py](start.py), [sparse_rounds.py](sparse_rounds.py), [break_even.py](break_even.py),
[equivalence.py](equivalence.py), [selection.py](selection.py), [augmentation.py](augmentation.py),
[precision.py](precision.py), [compiled.py](compiled.py), [projects.py](projects.py), [changing.py](changing.py),
[channels.py](channels.py), [refitting.py](refitting.py), [sweeps.py](sweeps.py), [tracking.py](tracking.py),
[open_lth.py](open_lth.py).
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
    machine, profile = ";\n".join(machines), profiles.table(profiles.FILE)
    return PAGE.format(machine=machine, table=rows.table(told), names="sparse_step compile", profile=profile)


if __name__ == "__main__":
    main(sys.argv[1:])
