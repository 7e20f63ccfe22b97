"""The figures of a study, with their intervals over seeds: accuracy and early-stopping step by density, barriers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lottery.foundations.digests import digest_of
from lottery.foundations.files import write_whole
from lottery.foundations.metrics import headline
from lottery.reports.intervals import mean_interval, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARRIER = "connectivity/barrier"

# Okabe & Ito's colours, told apart by everyone, with a marker and a dash each for print without colour
_LOOKS = [
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "--"), ("#56B4E9", "P", "-."), ("#000000", "X", ":"),
]  # fmt: skip
_INSIDE = 8
"""lines at the most whose names fit among the curves"""
_USUAL = {
    "imp": 0, "random_reinit": 1, "random_mask": 2, "one_shot": 3, "finetune": 4, "finetune_parent": 4,
    "lr_rewind": 5, "scratch_e": 5, "scratch_b": 6,
}  # fmt: skip
"""The looks of the arms in the first studies' committed figures. Nothing is to be added: others have theirs by name."""


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Accuracy by density, for every arm the mean and its 95 % band; below it the early-stopping step.

    The latter is left out if nearly every training was at its best at its end, where the budget stopped it, and if some
    were given more steps than others. For a rewound round the end is taken for the length of its training, which leaves
    out the rewinding step.
    """
    metric, numbers = headline(frame), summary(frame)
    score = f"test_{metric.name}"
    pruned = frame[frame["round"] > 0]
    alike = pruned["train_steps"].nunique() <= 1
    stops = alike and (frame["early_stop_step"] < frame["train_steps"]).mean() > 0.1
    arms = _looked(frame["arm"].unique())
    with _figure(path, 6.0 if stops else 4.2, len(arms)) as figure:
        panels = figure.subplots(2 if stops else 1, sharex=True, squeeze=False, height_ratios=(2, 1) if stops else None)
        shown = list(zip(panels[:, 0], (score, "early_stop_step"), strict=False))
        for arm, look in arms.items():
            curve = numbers[numbers["arm"] == arm].sort_values("round")
            for axes, column in shown:
                label = f"{arm} ({_count(curve)})"
                _band(axes, 100 * curve["density"], curve[column], curve[f"{column}_half"], look, label)
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
        _densities(below, numbers["density"].min())
        above.set_ylabel(f"test {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}")
        if metric.share:  # an interval may reach further, no share does
            bottom, top = above.get_ylim()
            above.set_ylim(max(bottom, 0.0), min(top, 1.0))
        _name(figure, above, frame)


def draw_barriers(frame: pd.DataFrame, path: Path) -> None:
    """The barriers of linear mode connectivity, mean and 95 % band, as `barriers` has them."""
    numbers, metric = barriers(frame), headline(frame)
    unit, scale = (f"points of {metric.name}", 100) if metric.share else (metric.name, 1)
    by_step = "k" in numbers
    lines = list(dict.fromkeys(numbers["line"]))
    with _figure(path, 4.2, len(lines)) as figure:
        axes = figure.subplots()
        looks = {line: look for look, line in enumerate(lines)} if by_step else _looked(frame["arm"].unique())
        for line in lines:
            curve = numbers[numbers["line"] == line]
            x = curve["k"] if by_step else 100 * curve["density"]
            _band(axes, x, scale * curve["mean"], scale * curve["half"], looks[line], f"{line} ({_count(curve)})")
        if by_step:
            axes.set_xlabel("rewinding step k: trained together so far")
        else:
            _densities(axes, numbers["density"].min())
        axes.axhline(0, color="0.55", linewidth=0.8, zorder=0)
        axes.set_ylabel(f"barrier ({unit})")
        _name(figure, axes, frame)


def barriers(frame: pd.DataFrame) -> pd.DataFrame:
    """Barriers of linear mode connectivity as lines over the rewinding step `k`, or over density if there is one step.

    A row a point: the line it is of, where it lies, n, mean and half-width.
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


@contextmanager
def _figure(path: Path, height: float, lines: int) -> Iterator[Figure]:
    """A figure with room for the names of its lines, saved at the end, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        below = 0.11 * lines if lines > _INSIDE else 0.0
        figure = Figure(figsize=(6.4, height + below), layout="constrained")
        yield figure
        picture = BytesIO()
        figure.savefig(picture, dpi=160, format="png")
    write_whole(path, picture.getvalue())


def _name(figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
    """The title, and the names of the lines; long ones are broken, since they would leave the axes no room."""
    axes.set_title(f"{fill(frame['study'].iloc[0], 70)}\nmean and 95 % interval over seeds", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    labels = [fill(label, 60) for label in labels]
    if len(labels) > _INSIDE:  # they would cover the curves
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    else:
        axes.legend(handles, labels, frameon=False)


def _count(curve: pd.DataFrame) -> str:
    """Of how many seeds a line's points are."""
    few, many = curve["n"].min(), curve["n"].max()
    return f"n = {many if few == many else f'{few} to {many}'}"


def _looked(arms: Iterable[str]) -> dict[str, int]:
    """The look of each arm, none twice as far as they go: the same whatever other arms there are, if it is free.

    Ask for all arms of a study at once, and each looks the same in every figure of it.
    """
    arms, taken, every = list(arms), dict[str, int](), len(_LOOKS)
    for arm in arms:
        if (usual := _USUAL.get(arm.partition(",")[0], -1)) not in (-1, *taken.values()):
            taken[arm] = usual
    for arm in sorted(set(arms) - set(taken)):
        first = int(digest_of(arm), 16)
        turns = [lap * every + (first + turn) % every for lap in range(2) for turn in range(every)]
        taken[arm] = next((look for look in turns if look not in taken.values()), turns[0])
    return {arm: taken[arm] for arm in arms}


def _densities(axes: Axes, least: float) -> None:
    """Makes the horizontal axis one of densities, in per cent, on a scale of logarithms, from dense to sparse."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [10.0**power * of for power in range(2, -5, -1) for of in (1, 0.5, 0.2) if 10.0**power * of >= 80 * least]
    if len(ticks) > 2 or least == 1:
        axes.set_xticks(ticks)
    else:  # so near to dense an axis of logarithms is nearly an even one
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("density: kept weights (%)")


def _band(axes: Axes, x: pd.Series, y: pd.Series, half: pd.Series, look: int, label: str) -> None:
    """A line with its interval; none is drawn for one seed. On their second round looks have hollow markers."""
    lap, number = divmod(look, len(_LOOKS))
    colour, marker, dash = _LOOKS[number]
    face = "white" if lap % 2 else colour
    half = half.replace(np.inf, 0)
    axes.plot(x, y, color=colour, marker=marker, markerfacecolor=face, linestyle=dash, markersize=5, label=label)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:  # a band of one point can't be seen
        axes.vlines(x, y - half, y + half, color=colour, linewidth=1)
