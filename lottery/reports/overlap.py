"""The overlap of two tickets' masks, compared with what chance would give."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd

from lottery.config.recorded import phase
from lottery.pruning.masks import Masks, kept
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger


def shared(one: Masks, other: Masks) -> float:
    """The number of weights kept by both masks, divided by that of the sparser mask; in [0, 1]."""
    return kept({name: mask & other[name] for name, mask in one.items()}) / max(1, min(kept(one), kept(other)))


def by_chance(one: Masks, other: Masks) -> float:
    """The expected value of `shared` if each layer kept as many weights at random places."""
    common = sum(kept({name: mask}) * kept({name: other[name]}) / mask.numel() for name, mask in one.items())
    return common / max(1, min(kept(one), kept(other)))


def compare(study: Path) -> pd.DataFrame:
    """Every pair of masks of a study in one round that differs in one thing: the seed or the arm.

    Rounds of one chain need none: later masks lie inside earlier ones, unless training changes them. Reads ledgers and
    store alone.
    Raises FileNotFoundError if there is no pruned round, or a phase is gone.
    """
    cells = {path.parent: Ledger(path).lines() for path in sorted(study.glob(f"*/*/{NAME}"))}
    rounds = {line["round"] for lines in cells.values() for line in lines} - {0}
    if not rounds:
        raise FileNotFoundError(f"{study}: there is no pruned round in it")
    rows = list[dict[str, object]]()
    for index in sorted(rounds):  # one round in memory at a time
        found = {
            (line["arm"], line["seed"]): (line["density"], phase(folder, index).masks)
            for folder, lines in cells.items()
            for line in lines
            if line["round"] == index
        }
        for one, other in combinations(sorted(found), 2):
            if one[0] != other[0] and one[1] != other[1]:
                continue
            what = f"seeds of {one[0]}" if one[0] == other[0] else f"{one[0]} and {other[0]}"
            (density, left), (_, right) = found[one], found[other]
            values = {"shared": round(shared(left, right), 9), "chance": round(by_chance(left, right), 9)}
            pair = {"arm": one[0], "seed": one[1], "other_arm": other[0], "other_seed": other[1]}
            rows.append({"round": index, "density": density, "between": what, **pair, **values})
    columns = ["round", "density", "between", "arm", "seed", "other_arm", "other_seed", "shared", "chance"]
    return pd.DataFrame(rows, columns=columns)
