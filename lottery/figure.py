"""The figures of a study, with their intervals over seeds: accuracy and early-stopping step by density, barriers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lottery.files import write_whole
from lottery.intervals import mean_interval, summary
from lottery.results import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARRIER = "connectivity/barrier"

# Okabe & Ito's colours, told apart by everyone, with a marker and a dash each for print without colour
_LOOKS = [
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "--"), ("#56B4E9", "P", "-."), ("#000000", "X", ":"),
]  # fmt: skip
_USUAL = {
    "imp": 0, "random_reinit": 1, "random_mask": 2, "one_shot": 3, "finetune": 4, "finetune_parent": 4,
    "lr_rewind": 5, "scratch_e": 5, "scratch_b": 6,
}  # fmt: skip
"""which look an arm has in every figure"""


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Accuracy by density, for every arm the mean and its 95 % band; below it the early-stopping step.

    The latter is left out if nearly every training was at its best at its end, where the budget stopped it, and if some
    were given more steps than others. For a rewound round the end is taken for the length of its training, which leaves
    out the rewinding step.
    """
    score, numbers = f"test_{headline(frame)}", summary(frame)
    pruned = frame[frame["round"] > 0]
    alike = pruned["train_steps"].nunique() <= 1
    stops = alike and (frame["early_stop_step"] < frame["train_steps"]).mean() > 0.1
    with _figure(path, 6.0 if stops else 4.2) as figure:
        panels = figure.subplots(2 if stops else 1, sharex=True, squeeze=False, height_ratios=(2, 1) if stops else None)
        shown = list(zip(panels[:, 0], (score, "early_stop_step"), strict=False))
        for arm, look in _looked(list(frame["arm"].unique())):
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
            at = ("axes fraction", "data")
            above.annotate("dense", (1, height), xycoords=at, ha="right", va="bottom", color="0.4")
        _densities(below, numbers["density"].min())
        above.set_ylabel(f"test {headline(frame)}")
        if headline(frame) == "accuracy":  # an interval may reach further, no accuracy does
            above.set_ylim(top=min(above.get_ylim()[1], 1.0))
        above.set_title(f"{frame['study'].iloc[0]}\nmean and 95 % interval over seeds", fontsize=10)
        above.legend(frameon=False)


def draw_barriers(frame: pd.DataFrame, path: Path) -> None:
    """The barriers of linear mode connectivity, mean and 95 % band, as `barriers` has them."""
    numbers, metric = barriers(frame), headline(frame)
    unit, scale = ("loss", 1) if metric == "loss" else (f"points of {metric}", 100)
    by_step = "k" in numbers
    with _figure(path, 4.2) as figure:
        axes = figure.subplots()
        for line, look in _looked(list(dict.fromkeys(numbers["line"]))):
            curve = numbers[numbers["line"] == line]
            x = curve["k"] if by_step else 100 * curve["density"]
            _band(axes, x, scale * curve["mean"], scale * curve["half"], look, f"{line} ({_count(curve)})")
        if by_step:
            axes.set_xlabel("rewinding step k: trained together so far")
        else:
            _densities(axes, numbers["density"].min())
        axes.axhline(0, color="0.55", linewidth=0.8, zorder=0)
        axes.set_ylabel(f"barrier ({unit})")
        axes.set_title(f"{frame['study'].iloc[0]}\nmean and 95 % interval over seeds", fontsize=10)
        axes.legend(frameon=False)


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
def _figure(path: Path, height: float) -> Iterator[Figure]:
    """A figure, saved at the end, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        yield figure
        picture = BytesIO()
        figure.savefig(picture, dpi=160, format="png")
    write_whole(path, picture.getvalue())


def _count(curve: pd.DataFrame) -> str:
    """Of how many seeds a line's points are."""
    few, many = curve["n"].min(), curve["n"].max()
    return f"n = {many if few == many else f'{few} to {many}'}"


def _looked(names: list[str]) -> list[tuple[str, tuple[str, str, str]]]:
    """Each with a look of its own, as far as they go; usual arms with the one that they have in every figure."""
    taken: dict[str, int] = {}
    for name in names:
        if (usual := _USUAL.get(name.partition(",")[0], -1)) not in (-1, *taken.values()):
            taken[name] = usual
    free = iter([number for number in range(len(_LOOKS)) if number not in taken.values()] + list(range(len(names))))
    return [(name, _LOOKS[(taken[name] if name in taken else next(free)) % len(_LOOKS)]) for name in names]


def _densities(axes: Axes, least: float) -> None:
    """Makes the horizontal axis one of densities, in per cent, on a scale of logarithms, from dense to sparse."""
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks([tick for tick in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if tick >= 100 * least * 0.8])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("density: kept weights (%)")


def _band(axes: Axes, x: pd.Series, y: pd.Series, half: pd.Series, look: tuple[str, str, str], label: str) -> None:
    """A line with its interval; none is drawn for one seed."""
    colour, marker, dash = look
    half = half.replace(np.inf, 0)
    axes.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=5, label=label)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
