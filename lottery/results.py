"""Results: every ledger in one tidy frame, and what it says with its interval."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from lottery.ledger import NAME, Ledger, LedgerError

MARGIN = 0.005  # half a point of accuracy: what "matches dense" allows, unless stated
KEYS = ["study", "arm", "seed", "round"]


def read(*paths: Path | str) -> pd.DataFrame:
    """All ledgers in or below some folders: one row a round, sorted by study, arm, seed and round.

    Densities of layers are columns `density/<layer>`; circumstances of the run, and the ledger's path, `run/<what>`.
    Raises FileNotFoundError if there is no finished round, LedgerError if two ledgers contradict each other.
    """
    files = sorted({file for path in paths for file in _ledgers(Path(path))})
    rows = [{**_flat(line), "run/ledger": str(file)} for file in files for line in Ledger(file).lines()]
    if not rows:
        raise FileNotFoundError(f"no finished round under {', '.join(map(str, paths))}")
    frame = pd.DataFrame(rows).sort_values(KEYS, ignore_index=True)
    frame = frame.drop_duplicates([column for column in frame if not str(column).startswith("run/")], ignore_index=True)
    for column, of in (("data", ["study"]), ("setting", ["study", "arm"])):
        for what, part in frame.groupby(of) if column in frame else ():
            if part[column].nunique() > 1:
                first, second, *_ = part.drop_duplicates(column)["run/ledger"]
                name = " ".join(map(str, what))
                raise LedgerError(
                    f"{first} and {second}: {name} was measured with another {column}; report one of them"
                )
    if (twice := frame.duplicated(KEYS, keep=False)).any():
        first, second, *_ = frame[twice]["run/ledger"]
        raise LedgerError(f"{first} and {second} hold different results for the same cell; report one of them")
    return frame


def headline(frame: pd.DataFrame) -> str:
    """The metric that the module names as its own."""
    return next(c.removeprefix("early_stop_test_") for c in map(str, frame) if c.startswith("early_stop_test_"))


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t-interval; infinite for fewer than two values.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: n, density, and mean and half-width of accuracy, early stop and difference to dense."""
    score = f"test_{headline(frame)}"
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True):
        mean, half = mean_interval(cells[score])
        stop, stop_half = mean_interval(cells["early_stop_step"])
        rows.append(
            {
                "arm": arm,
                "round": index,
                "n": len(cells),
                "density": cells["density"].mean(),
                score: mean,
                f"{score}_half": half,
                "early_stop_step": stop,
                "early_stop_step_half": stop_half,
                "matches_dense": matches_dense(frame, str(arm), int(str(index))),
            }
        )
    return pd.DataFrame(rows)


def difference(frame: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> tuple[float, float, int]:
    """Paired difference of test scores, (arm, round) minus (arm, round): mean, half-width, seeds that have both."""
    score = f"test_{headline(frame)}"
    sides = [
        frame[(frame["arm"] == arm) & (frame["round"] == index)].set_index("seed")[score]
        for arm, index in (first, second)
    ]
    paired = (sides[0] - sides[1]).dropna()
    if not len(paired):
        return float("nan"), float("inf"), 0
    return *mean_interval(paired), len(paired)


def matches_dense(
    frame: pd.DataFrame, arm: str, index: int, margin: float = MARGIN
) -> Literal["yes", "no", "undecided"]:
    """Whether the paired difference to the dense network lies above minus the margin, by its 95 % interval.

    *yes* if all of the interval does, *no* if none of it does, *undecided* if it straddles.
    """
    mean, half, _ = difference(frame, (arm, index), (arm, 0))
    if index == 0 or mean - half > -margin:
        return "yes"
    return "no" if mean + half < -margin else "undecided"


def sparsest_match(frame: pd.DataFrame, arm: str, margin: float = MARGIN) -> float | None:
    """The lowest density at which an arm matches dense; None if it never does."""
    rounds = frame[(frame["arm"] == arm) & (frame["round"] > 0)].groupby("round")["density"].mean()
    found = [
        density for index, density in rounds.items() if matches_dense(frame, arm, int(str(index)), margin) == "yes"
    ]
    return min(found, default=None)


def missing(frame: pd.DataFrame) -> list[str]:
    """What an unfinished study still lacks, as far as its ledgers know: cells never begun, rounds not yet played."""
    lacking = []
    for study, part in frame.groupby("study", sort=True):
        last = part.groupby(["arm", "seed"])["round"].max()
        planned = int(part["rounds"].iloc[0])
        for arm in sorted(set(part["arm"])):
            for seed in sorted(set(part["seed"])):
                if (arm, seed) not in last:
                    lacking.append(f"{study} {arm} seed {seed}: not begun")
                elif (done := int(last[arm, seed])) < planned:
                    lacking.append(f"{study} {arm} seed {seed}: {done} of {planned} pruned rounds")
    return lacking


def _ledgers(path: Path) -> list[Path]:
    if path.name == NAME:
        return [path]
    return [path / NAME] if (path / NAME).exists() else list(path.rglob(NAME))


def _flat(line: dict) -> dict:
    flat = {key: value for key, value in line.items() if not isinstance(value, dict)}
    flat |= {f"density/{layer}": value for layer, value in line["layer_densities"].items()}
    return flat | {f"run/{key}": value for key, value in line.get("run", {}).items()}
