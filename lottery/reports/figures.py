"""The figures of a study, with intervals over seeds: accuracy and early-stopping step by density, and barriers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lottery.foundations.metrics import headline
from lottery.reports.drawing import LOOKS, band, count, densities, looked, named, sheet, within
from lottery.reports.intervals import summary
from lottery.reports.sensitivity import curves
from lottery.reports.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARRIER = "connectivity/barrier"


def plot(frame: pd.DataFrame) -> Figure:
    """The figure of a report, for a notebook: test metric by density, mean and 95 % interval over seeds of every arm.

    `frame` is what `lottery.read` gives, of one study. A notebook shows the figure where it is a cell's last value, and
    `plot(frame).savefig("curve.pdf")` writes it. Raises LedgerError for several studies, and ValueError for what is no
    such frame, lacks a column, or has a round twice.
    """
    if not isinstance(frame, pd.DataFrame) or frame.empty:
        raise ValueError("lottery.plot takes a frame with rows of lottery.read")
    early = next((str(column) for column in frame if str(column).startswith("early_stop_test_")), "early_stop_test_*")
    needed = ["study", "arm", "seed", "round", "density", "train_steps", "early_stop_step", early]
    if lacking := [column for column in (*needed, early.removeprefix("early_stop_")) if column not in frame]:
        raise ValueError(f"lottery.plot takes a frame of lottery.read; this one lacks the column {lacking[0]}")
    if frame.duplicated(["study", "arm", "seed", "round"]).any():
        raise ValueError("lottery.plot: the frame has a round of a seed twice, which would count as two seeds")
    import matplotlib.pyplot  # noqa: F401  # tells notebooks how to show a figure

    return _curves(frame, None)


def draw(frame: pd.DataFrame, path: Path, axis: str | None = None) -> None:
    """Draws accuracy by density, mean and 95 % band of every arm, and below it the early-stopping step.

    The lower panel is left out if rounds were given different numbers of steps, or if nearly every training was best at
    its end, so that the budget and not early stopping ended it. The end of a rewound round is taken as its number of
    training steps, without the rewinding step. `axis` says what densities are shares of, other than of the weights.
    """
    _curves(frame, path, axis)


def _curves(frame: pd.DataFrame, path: Path | None, axis: str | None = None) -> Figure:
    metric, numbers = headline(frame), summary(frame)
    score = f"test_{metric.name}"
    pruned = frame[frame["round"] > 0]
    alike = pruned["train_steps"].nunique() <= 1
    stops = alike and (frame["early_stop_step"] < frame["train_steps"]).mean() > 0.1
    arms = looked(frame["arm"].unique())
    with sheet(path, 6.0 if stops else 4.2, len(arms)) as figure:
        panels = figure.subplots(2 if stops else 1, sharex=True, squeeze=False, height_ratios=(2, 1) if stops else None)
        shown = list(zip(panels[:, 0], (score, "early_stop_step"), strict=False))
        for arm, look in arms.items():
            curve = numbers[numbers["arm"] == arm].sort_values("round")
            for axes, column in shown:
                label = f"{arm} ({count(curve)})"
                band(axes, 100 * curve["density"], curve[column], curve[f"{column}_half"], look, label)
        dense = frame[frame["round"] == 0]
        by_seed = dense.groupby("seed")[score]
        if one := by_seed.nunique().max() == 1 and by_seed.size().max() == frame["arm"].nunique():  # for all arms
            for axes, column in shown:
                axes.axhline(dense.groupby("seed")[column].first().mean(), color="0.55", linewidth=0.8, zorder=0)
        above, below = panels[0, 0], panels[-1, 0]
        if stops:
            below.set_ylabel("early-stopping step")
            below.set_ylim(0, 1.05 * float(np.nanmax(frame[["train_steps", "early_stop_step"]])))
            below.yaxis.set_major_formatter("{x:,.0f}")
        if one and np.isfinite(height := by_seed.first().mean()):
            at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            above.annotate("dense", (1, height), (3, 0), **at, va="center", color="0.4")  # beside all curves
        densities(below, numbers["density"].min())
        below.set_xlabel(axis or below.get_xlabel())
        above.set_ylabel(f"test {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}")
        within(above, metric)
        named(figure, above, frame)
    return figure


def draw_barriers(frame: pd.DataFrame, path: Path) -> None:
    """Draws the barriers of linear mode connectivity, mean and 95 % band, as lines from `barriers`."""
    numbers, metric = barriers(frame), headline(frame)
    unit, scale = (f"points of {metric.name}", 100) if metric.share else (metric.name, 1)
    by_step = "k" in numbers
    lines = list(dict.fromkeys(numbers["line"]))
    with sheet(path, 4.2, len(lines)) as figure:
        axes = figure.subplots()
        looks = {line: look for look, line in enumerate(lines)} if by_step else looked(frame["arm"].unique())
        for line in lines:
            curve = numbers[numbers["line"] == line]
            x = curve["k"] if by_step else 100 * curve["density"]
            band(axes, x, scale * curve["mean"], scale * curve["half"], looks[line], f"{line} ({count(curve)})")
        if by_step:
            axes.set_xlabel("rewinding step k: trained together so far")
        else:
            densities(axes, numbers["density"].min())
        axes.axhline(0, color="0.55", linewidth=0.8, zorder=0)
        axes.set_ylabel(f"barrier ({unit})")
        named(figure, axes, frame)


def barriers(frame: pd.DataFrame) -> pd.DataFrame:
    """Barriers of linear mode connectivity as lines over the rewinding step `k`, or over density if all share one step.

    One row per point: its line, its `k` or density, n, mean and half-width of the interval.
    """
    found = frame.dropna(subset=[BARRIER])
    found = found.assign(k=found["connectivity/steps_together"], line=found["arm"])
    by_step = found["k"].nunique() > 1
    if by_step:
        density = found.groupby(["arm", "round"])["density"].transform("mean")
        found["line"] = found["arm"].str.replace(r",rewind=[^,]+", "", regex=True) + (100 * density).map(
            " at {:.3g} %".format
        )
        found.loc[found["round"] == 0, "line"] = "dense"  # the same for every arm
        found = found.drop_duplicates(["line", "seed", "k"])
    rows = []
    for (line, _, k), cells in found.groupby(["line", "round", "k"]):
        mean, half = mean_interval(cells[BARRIER])
        place = {"k": k} if by_step else {"density": cells["density"].mean()}
        rows.append({"line": line, **place, "n": len(cells), "mean": mean, "half": half})
    return pd.DataFrame(rows)


def draw_sensitivity(frame: pd.DataFrame, path: Path) -> None:
    """Draws the validation metric over the share that one layer alone keeps, mean and 95 % band of every layer."""
    numbers, metric = curves(frame), headline(frame)
    lines = list(dict.fromkeys(numbers["layer"]))
    with sheet(path, 4.2, len(lines)) as figure:
        axes = figure.subplots()
        for number, line in enumerate(lines):
            curve, look = numbers[numbers["layer"] == line], number % (2 * len(LOOKS))
            band(axes, 100 * curve["kept"], curve["mean"], curve["half"], look, f"{line} ({count(curve)})")
        densities(axes, numbers["kept"].min())
        axes.set_xlabel("kept of one layer alone (%)")
        axes.set_ylabel(f"validation {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}")
        within(axes, metric)
        named(figure, axes, frame)
