"""Overlap of masks: how much two tickets have in common, beside what chance would give."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd

from lottery.ledger import NAME, Ledger
from lottery.masks import Masks, kept
from lottery.notebook import phase
from lottery.results import mean_interval

FILE = "overlap.csv"


def shared(one: Masks, other: Masks) -> float:
    """Kept weights in common over those of the sparser mask, in [0, 1]."""
    return kept({name: mask & other[name] for name, mask in one.items()}) / max(1, min(kept(one), kept(other)))


def by_chance(one: Masks, other: Masks) -> float:
    """What `shared` is on average where each layer keeps as many weights, at random places."""
    common = sum(kept({name: mask}) * kept({name: other[name]}) / mask.numel() for name, mask in one.items())
    return common / max(1, min(kept(one), kept(other)))


def compare(study: Path) -> pd.DataFrame:
    """Every pair of masks of a study in one round that differs in one thing: the seed or the arm.

    Rounds of one chain need no comparison: later masks lie inside earlier ones. Reads ledgers and store alone.
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
            values = {"shared": shared(left, right), "chance": by_chance(left, right)}
            rows.append({"round": index, "density": density, "between": what, "one": one, "other": other, **values})
    return pd.DataFrame(rows, columns=["round", "density", "between", "one", "other", "shared", "chance"])


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and half the 95 % interval over the pairs of each kind; pairs that share a seed are not independent."""
    rows = []
    for (index, what), part in frame.groupby(["round", "between"], sort=True):
        mean, half = mean_interval(part["shared"])
        at = {"round": index, "density": part["density"].mean(), "between": what, "pairs": len(part)}
        rows.append({**at, "shared": mean, "shared_half": half, "chance": part["chance"].mean()})
    return pd.DataFrame(rows)
