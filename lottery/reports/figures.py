"""The figures of a study, with intervals over seeds: accuracy and early-stopping step by density, and barriers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lottery.foundations.digests import digest_of
from lottery.foundations.files import write_whole
from lottery.foundations.metrics import Headline, headline
from lottery.reports.intervals import summary
from lottery.reports.sensitivity import curves
from lottery.reports.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARRIER = "connectivity/barrier"

# the colour-blind safe palette of Okabe & Ito, with a marker and a dash each for print without colour
_LOOKS = [
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "--"), ("#56B4E9", "P", "-."), ("#000000", "X", ":"),
]  # fmt: skip
_INSIDE = 8
"""The most lines whose legend fits inside the axes."""
_USUAL = {
    "imp": 0, "random_reinit": 1, "random_mask": 2, "one_shot": 3, "finetune": 4, "finetune_parent": 4,
    "lr_rewind": 5, "scratch_e": 5, "scratch_b": 6,
}  # fmt: skip
"""The looks of arms in figures already committed. Add nothing: other arms get a look from a hash of their name."""


def plot(frame: pd.DataFrame) -> Figure:
    """The figure of a report, for a notebook: test metric by density, mean and 95 % interval over seeds of every arm.

    `frame` is what `lottery.read` gives, of one study. A notebook shows the figure where it is a cell's last value, and
    `plot(frame).savefig("curve.pdf")` writes it. Raises LedgerError for several studies.
    """
    import matplotlib.pyplot  # noqa: F401  # tells notebooks how to show a figure

    return _curves(frame, None)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draws accuracy by density, mean and 95 % band of every arm, and below it the early-stopping step.

    The lower panel is left out if rounds were given different numbers of steps, or if nearly every training was best at
    its end, so that the budget and not early stopping ended it. The end of a rewound round is taken as its number of
    training steps, without the rewinding step.
    """
    _curves(frame, path)


def _curves(frame: pd.DataFrame, path: Path | None) -> Figure:
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
        _within(above, metric)
        _name(figure, above, frame)
    return figure


def draw_barriers(frame: pd.DataFrame, path: Path) -> None:
    """Draws the barriers of linear mode connectivity, mean and 95 % band, as lines from `barriers`."""
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
    with _figure(path, 4.2, len(lines)) as figure:
        axes = figure.subplots()
        for number, line in enumerate(lines):
            curve, look = numbers[numbers["layer"] == line], number % (2 * len(_LOOKS))
            _band(axes, 100 * curve["share"], curve["mean"], curve["half"], look, f"{line} ({_count(curve)})")
        _densities(axes, numbers["share"].min())
        axes.set_xlabel("kept of one layer alone (%)")
        axes.set_ylabel(f"validation {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}")
        _within(axes, metric)
        _name(figure, axes, frame)


@contextmanager
def _figure(path: Path | None, height: float, lines: int) -> Iterator[Figure]:
    """A figure with room for the legend of its lines, saved atomically on exit, in the format of its suffix.

    A vector format is as wide as a column of a paper, with letters that can be read there.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    column = path is not None and path.suffix in (".svg", ".pdf")
    width, size, scale = (3.35, 7, 0.62) if column else (6.4, 10, 1.0)
    looks: dict[Any, Any] = {
        "lines.markersize": 5,
        "font.size": size,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "lottery",
    }
    if column:
        looks |= {"lines.linewidth": 1.0, "lines.markersize": 3, "axes.titlesize": 7, "legend.fontsize": 6}
    with mpl.rc_context({**looks, "pdf.fonttype": 42}):
        below = 0.11 * lines if lines > _INSIDE else 0.0
        figure = Figure(figsize=(width, scale * (height + below)), layout="constrained")
        yield figure
        if path is None:
            return
        picture, kind = BytesIO(), path.suffix.removeprefix(".")
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(picture, dpi=160, format=kind, metadata=dated)
    write_whole(path, picture.getvalue())


def _name(figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
    """Adds title and legend, with long names wrapped, since they would leave the axes no room."""
    small = figure.get_size_inches()[0] < 5
    name = fill(frame["study"].iloc[0], 50 if small else 70)
    axes.set_title(f"{name}\nmean and 95 % interval over seeds", fontsize=7 if small else 10)
    handles, labels = axes.get_legend_handles_labels()
    labels = [fill(label, 45 if small else 60) for label in labels]
    if len(labels) > _INSIDE:  # they would cover the curves
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=1 if small else 2,
            fontsize=6 if small else 8,
            frameon=False,
        )
    else:
        axes.legend(handles, labels, frameon=False)


def _within(axes: Axes, metric: Headline) -> None:
    """An interval may leave [0, 1], a share does not."""
    if metric.share:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 1.0))


def _count(curve: pd.DataFrame) -> str:
    """The number of seeds behind a line's points."""
    few, many = curve["n"].min(), curve["n"].max()
    return f"n = {many if few == many else f'{few} to {many}'}"


def _looked(arms: Iterable[str]) -> dict[str, int]:
    """The look of each arm, unique as far as looks go, and independent of the other arms unless it is taken.

    Pass all arms of a study at once, so that each looks the same in all figures of the study.
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
    """Makes the horizontal axis logarithmic in density, in per cent, from dense to sparse."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [10.0**power * of for power in range(2, -5, -1) for of in (1, 0.5, 0.2) if 10.0**power * of >= 80 * least]
    if len(ticks) > 2 or least == 1:
        axes.set_xticks(ticks)
    else:  # so close to dense a logarithmic axis is nearly linear
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("density: kept weights (%)")


def _band(axes: Axes, x: pd.Series, y: pd.Series, half: pd.Series, look: int, label: str) -> None:
    """Draws a line with its band, none for one seed. Looks used a second time have hollow markers."""
    lap, number = divmod(look, len(_LOOKS))
    colour, marker, dash = _LOOKS[number]
    face = "white" if lap % 2 else colour
    half = half.replace(np.inf, 0)
    axes.plot(x, y, color=colour, marker=marker, markerfacecolor=face, linestyle=dash, label=label)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:  # a band of one point can't be seen
        axes.vlines(x, y - half, y + half, color=colour, linewidth=1)
