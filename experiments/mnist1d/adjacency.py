"""Neighbours in the first layer: `python -m experiments.mnist1d.adjacency STUDY OUT.csv`.

Greydanus & Kobak count how often k neighbouring inputs of one hidden unit are all kept, per unit and input. If tickets
have found that neighbours belong together, they keep more such runs than masks of the same density at random positions.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

import lottery

RUNS = (2, 3, 4)
FIRST = "fc1.weight"


def main(study: Path, out: Path) -> None:
    """Writes a study's results with a column `adjacent_k` for each length of run, from the masks in its store."""
    frame = lottery.read(study)
    for at, line in zip(frame.index, frame.to_dict("records"), strict=True):
        mask = lottery.load(Path(line["run/ledger"]).parent, line["round"])[1][FIRST]
        for length in RUNS:
            frame.loc[at, f"adjacent_{length}"] = adjacent(mask, length)
    frame.drop(columns=[column for column in frame if str(column).startswith("run/")]).to_csv(out, index=False)
    print(f"wrote {out}")


def adjacent(mask: Tensor, length: int) -> float:
    """Runs of `length` kept neighbours in the rows of a mask (units, inputs), overlapping ones too, per entry.

    A run that would begin too near the end counts among the entries, as in the authors' notebook.

    >>> import torch
    >>> mask = torch.tensor([[True, True, True, False], [False, True, False, True]])
    >>> adjacent(mask, 2), adjacent(mask, 3)
    (0.25, 0.125)
    """
    return int(mask.unfold(1, length, 1).all(2).sum()) / mask.numel()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
