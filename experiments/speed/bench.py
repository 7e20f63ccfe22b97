"""Everything that is said about speed, measured: `python -m experiments.speed.bench`, about twenty minutes.

Names of measurements (`python -m experiments.speed.bench sparse_step compile`) take these alone. What was measured is
kept in results.json, and README.md is a view of it: other rows stay as they were, with the date they are of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from experiments.speed import (
    augmentation,
    compiled,
    equivalence,
    loop,
    open_lth,
    precision,
    reuse,
    rows,
    selection,
    sparse_rounds,
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
    "open_lth": open_lth.measure,
}
PAGE = """# Speed

Made by `make bench`; every number is a ratio of two things that took turns on the same machine, so that whatever
else it did hit both. Given are the median, its 95 % interval (order statistics; the range if there are fewer than six)
and how many ratios there were. On a busy machine intervals are wide; load is that of the last minute before and after.

Machine: {machine}; one thread a process.

{table}

What each row does, line by line: [loop.py](loop.py), [reuse.py](reuse.py), [sparse_rounds.py](sparse_rounds.py),
[equivalence.py](equivalence.py), [selection.py](selection.py), [augmentation.py](augmentation.py),
[precision.py](precision.py), [compiled.py](compiled.py), [open_lth.py](open_lth.py).
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
            (HERE / "README.md").write_text(page([found[name] for name in MEASUREMENTS if name in found]))


def page(found: list[rows.Measured]) -> str:
    machines = dict.fromkeys(one.machine for one in found)
    return PAGE.format(machine="; ".join(machines), table=rows.table(found), names="sparse_step compile")


if __name__ == "__main__":
    main(sys.argv[1:])
