"""The figure of a network's operating points: what accuracy costs in bytes, multiply-adds and time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lottery.foundations.metrics import Headline
from lottery.reports.drawing import LOOKS, magnitudes, sheet

COSTS = {"bytes": "bytes of the file", "multiply_adds": "multiply-adds of an example"}


def draw_points(points: pd.DataFrame, metric: Headline, path: Path) -> None:
    """Draws a test metric over what each operating point costs, as `lottery compress` measures it.

    `points` are rows of `lottery.compress.points`, of which those without a score are left out. Times are medians with
    their 95 % interval, those of the largest batch that was timed.
    """
    score = f"test_{metric.name}"
    shown = points.dropna(subset=[score])
    batches = sorted(int(name[3:]) for name in map(str, shown) if name.startswith("ms_") and name[3:].isdigit())
    columns = COSTS | ({f"ms_{batches[-1]}": f"seconds for {batches[-1]} examples"} if batches else {})
    colour, marker, dash = LOOKS[0]
    with sheet(path, 2.9, 1) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (column, said) in zip(panels, columns.items(), strict=True):
            timed = column.startswith("ms_")
            at = shown.sort_values(column)  # in whatever order they were asked for
            cost = at[column] / 1000 if timed else at[column]
            axes.plot(cost, at[score], color=colour, marker=marker, linestyle=dash)
            if timed:
                low, high = (at[column.replace("ms_", f"ms_{end}_")] / 1000 for end in ("low", "high"))
                axes.hlines(at[score], low, high, color=colour, linewidth=1)
            for place, value, name in zip(cost, at[score], at["point"], strict=True):
                axes.annotate(str(name), (place, value), (3, -9), textcoords="offset points", fontsize="small")
            magnitudes(axes)
            axes.margins(0.25, 0.12)
            axes.set_xlabel(said)
        panels[0].set_ylabel(f"test {metric.name}{'' if metric.higher_is_better else ' (lower is better)'}")
