"""Statistics over seeds: means with 95 % t-intervals and n, paired differences, and what matches dense."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from lottery.foundations.metrics import headline
from lottery.reports.results import one_study

NEAR = 0.03  # relative difference up to which two densities count as the same, since papers round
COSTS = ["train_steps", "train_flops", "train_flops_dense", "total_flops", "total_flops_dense"]


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t-interval, which is infinite for fewer than two values; NaN for none.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return float(values.mean()) if len(values) else float("nan"), float("inf")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: n, density, and mean and half-width of the test headline and of the early-stopping step.

    The headline is averaged over the n seeds where it is a finite number, the early-stopping step over all.
    """
    one_study(frame)
    score = f"test_{headline(frame).name}"
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True):
        values = cells[score].dropna()
        mean, half = mean_interval(values)
        stop, stop_half = mean_interval(cells["early_stop_step"])
        rows.append(
            {
                "arm": arm,
                "round": index,
                "n": len(values),
                "density": cells["density"].mean(),
                score: mean,
                f"{score}_half": half,
                "early_stop_step": stop,
                "early_stop_step_half": stop_half,
            }
        )
    return pd.DataFrame(rows)


def analysed(frame: pd.DataFrame) -> pd.DataFrame:
    """What analyses found: one row per arm, round and `<analysis>/<what>`, with n, density, mean and half-width."""
    one_study(frame)
    columns = [column for column in map(str, frame) if "/" in column and not column.startswith(("density/", "run/"))]
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True):
        for column in columns:
            if len(values := cells[column].dropna()):
                mean, half = mean_interval(values)
                found = {"what": column, "n": len(values), "mean": mean, "half": half}
                rows.append({"arm": arm, "round": index, "density": cells["density"].mean(), **found})
    return pd.DataFrame(rows)


def cost(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: density and the mean over seeds of `COSTS`; empty if the ledgers did not count FLOPs."""
    one_study(frame)
    if not set(COSTS) <= set(frame):
        return pd.DataFrame()
    return frame.groupby(["arm", "round"], sort=True)[["density", *COSTS]].mean().dropna().reset_index()


def difference(frame: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> tuple[float, float, int]:
    """Paired difference of test scores, (arm, round) minus (arm, round): mean, half-width, seeds that have both."""
    one_study(frame)
    score = f"test_{headline(frame).name}"
    sides = [
        frame[(frame["arm"] == arm) & (frame["round"] == index)].set_index("seed")[score]
        for arm, index in (first, second)
    ]
    paired = (sides[0] - sides[1]).dropna()
    if not len(paired):
        return float("nan"), float("inf"), 0
    return *mean_interval(paired), len(paired)


def matches_dense(
    frame: pd.DataFrame, arm: str, index: int, margin: float | None = None
) -> Literal["yes", "no", "undecided"]:
    """Whether an arm is worse than the dense network by less than the margin, by the paired difference's 95 % interval.

    *yes* if the whole interval says so, *no* if none of it does, *undecided* if it straddles the margin, or if a seed
    lacks the round or its score: the chains that ended early may be the worst. The metric's direction is respected.
    Raises ValueError without a margin for a metric that is no share in [0, 1], where half a point has no meaning.
    """
    metric = headline(frame)
    if (margin := metric.margin if margin is None else margin) is None:
        raise ValueError(f"{metric.name} is no share in [0, 1], so no margin is defined for it: give one")
    mean, half, pairs = difference(frame, (arm, index), (arm, 0))
    if index == 0:
        return "yes"
    if pairs < len(frame[(frame["arm"] == arm) & (frame["round"] == 0)]):
        return "undecided"
    gain = metric.gain(mean)
    if gain - half > -margin:
        return "yes"
    return "no" if gain + half < -margin else "undecided"


def sparsest_match(frame: pd.DataFrame, arm: str, margin: float | None = None) -> tuple[float, int, int] | None:
    """The lowest density at which an arm matches dense, and how many of the rounds down to it do; None if none does.

    Each round is tested by itself, so that a single match among many rounds may be chance.
    """
    rounds = frame[(frame["arm"] == arm) & (frame["round"] > 0)].groupby("round")["density"].mean()
    matching = {i: float(rounds[i]) for i in rounds.index if matches_dense(frame, arm, int(i), margin) == "yes"}
    if not matching:
        return None
    density = min(matching.values())
    return density, len(matching), int((rounds >= density).sum())
