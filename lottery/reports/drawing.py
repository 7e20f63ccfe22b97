"""How figures of reports look: their sheet, the looks of arms, lines with bands, the axis of densities."""

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
from lottery.foundations.metrics import Headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the colour-blind safe palette of Okabe & Ito, with a marker and a dash each for print without colour
LOOKS = [
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


@contextmanager
def sheet(path: Path | None, height: float, lines: int) -> Iterator[Figure]:
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


def named(figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
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


def within(axes: Axes, metric: Headline) -> None:
    """An interval may leave [0, 1], a share does not."""
    if metric.share:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0.0), min(top, 1.0))


def count(curve: pd.DataFrame) -> str:
    """The number of seeds behind a line's points."""
    few, many = curve["n"].min(), curve["n"].max()
    return f"n = {many if few == many else f'{few} to {many}'}"


def looked(arms: Iterable[str]) -> dict[str, int]:
    """The look of each arm, unique as far as looks go, and independent of the other arms unless it is taken.

    Pass all arms of a study at once, so that each looks the same in all figures of the study.
    """
    arms, taken, every = list(arms), dict[str, int](), len(LOOKS)
    for arm in arms:
        if (usual := _USUAL.get(arm.partition(",")[0], -1)) not in (-1, *taken.values()):
            taken[arm] = usual
    for arm in sorted(set(arms) - set(taken)):
        first = int(digest_of(arm), 16)
        turns = [lap * every + (first + turn) % every for lap in range(2) for turn in range(every)]
        taken[arm] = next((look for look in turns if look not in taken.values()), turns[0])
    return {arm: taken[arm] for arm in arms}


def densities(axes: Axes, least: float) -> None:
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


def magnitudes(axes: Axes) -> None:
    """Makes the horizontal axis logarithmic in a cost, such as 30k."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def band(axes: Axes, x: pd.Series, y: pd.Series, half: pd.Series, look: int, label: str) -> None:
    """Draws a line with its band, none for one seed. Looks used a second time have hollow markers."""
    lap, number = divmod(look, len(LOOKS))
    colour, marker, dash = LOOKS[number]
    face = "white" if lap % 2 else colour
    half = half.replace(np.inf, 0)
    axes.plot(x, y, color=colour, marker=marker, markerfacecolor=face, linestyle=dash, label=label)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.18, linewidth=0)
    if len(x) == 1:  # a band of one point can't be seen
        axes.vlines(x, y - half, y + half, color=colour, linewidth=1)
