"""What the page shows, as plain data: each number is in the frame, or a statistic of numbers that are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lottery.config.groups import options
from lottery.foundations.metrics import headline
from lottery.reports.answers import answer, better
from lottery.reports.comparison import MOST, comparable, shared_arms
from lottery.reports.intervals import NEAR, all_by_seed, by_seed, compared, densities, matching, sparsest
from lottery.reports.results import KEYS, missing
from lottery.reports.statistics import FEW, Floats, iqm_interval, iqm_intervals, spread

Data = dict[str, Any]
_ASIDE = {*KEYS, "rounds"}
_WAYS = ("density", "compression_ratio", "train_flops", "total_flops")
"""Columns that a figure can have on its horizontal axis, besides bytes and latencies."""


def study_data(frame: pd.DataFrame, name: str) -> Data:
    """One study: its answer, the statistics of each arm by round, and every two arms compared."""
    metric, score = headline(frame), f"test_{headline(frame).name}"
    judged = matching(frame) if metric.margin is not None else None
    found = sparsest(judged).set_index("arm") if judged is not None else pd.DataFrame()
    pairs, known = compared(frame), options("arm")
    columns = numeric(frame)
    wide = all_by_seed(frame, columns)
    every = np.stack([wide[column].to_numpy() for column in columns])  # column x arm and round x seed
    index, seeds = wide[score].index, wide[score].columns.to_numpy()
    of_layers = [str(column) for column in frame if str(column).startswith("density/")]
    arms = []
    for arm, cells in frame.groupby("arm", sort=False):
        there, own = wide[score].loc[arm], [int(seed) for seed in sorted(cells["seed"].unique())]
        layers = cells.groupby("round")[of_layers].mean().dropna(axis="columns", how="all")
        cells_of = np.take(every[:, index.get_loc(arm)], np.searchsorted(seeds, own), axis=-1)
        data: Data = {
            "name": arm,
            "what": known.get(str(arm).partition(",")[0], ""),
            "seeds": own,
            "rounds": [int(index) for index in there.index],
            "columns": dict(zip(columns, _spreads(cells_of), strict=True)),
            "layers": {str(layer).removeprefix("density/"): numbers(values) for layer, values in layers.items()},
            "iqm": [numbers(row, 5) for row in iqm_intervals(there[own])] if len(own) >= FEW else [],
            "ended": _ended(cells),
        }
        if judged is not None:
            mine = judged[judged["arm"] == arm]
            data |= {"match": mine["match"].tolist(), "gain": numbers(mine["gain"]), "half": numbers(mine["half"])}
        if arm in found.index:
            data["sparsest"] = dict(zip(found.columns, numbers(found.loc[arm]), strict=True))
        arms.append(data)
    return {
        "name": str(frame["study"].iloc[0]),
        "short": name,
        "answer": answer(frame, found),
        "better": better(frame, pairs),
        "metric": score,
        "higher": metric.higher_is_better,
        "share": metric.share,
        "margin": metric.margin,
        "missing": missing(frame),
        "unknown": int(frame[score].isna().sum()),
        "arms": arms,
        "pairs": _pairs(pairs, list(frame["arm"].unique())),
    }


def numeric(frame: pd.DataFrame) -> list[str]:
    """The measured columns that hold numbers; seconds stand for themselves."""
    found = []
    for column in map(str, frame):
        aside = column in _ASIDE or column.startswith("density/") or (column[:4] == "run/" and column != "run/seconds")
        if not aside and pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column]):
            found.append(column)
    return found


def ways(columns: Sequence[str]) -> list[str]:
    """The columns that may be horizontal axes: what a ticket is, and what it costs."""
    costs = [column for column in columns if any(word in column for word in ("bytes", "latency", "seconds"))]
    return [*(column for column in _WAYS if column in columns), *costs]


def together(studies: Mapping[str, pd.DataFrame]) -> list[Data]:
    """For each arm that comparable studies share, at each density: interquartile mean over all runs of the gain.

    The gain is the difference to dense of the same study and seed, and the bootstrap is stratified by study. A study
    with fewer than `FEW` runs is left out: so few values can't stand for others. Studies that share seeds share their
    dense networks too, so that their gains are not independent, and the interval is narrower than it should be.
    """
    rows = []
    for group in (group for group in comparable(studies) if len(group) > 1):
        gains = {study: _gains(studies[study]) for study in group}
        for arm in dict.fromkeys(arm for study in group for arm in studies[study]["arm"].unique()):
            points = [(density, study, of) for study in group for density, of in gains[study].get(arm, ())]
            points.sort(key=lambda point: -point[0])
            while points:
                near = _nearest(points)
                points = [point for point in points if not any(point is each for each in near)]
                near = [point for point in near if len(point[2]) >= FEW]
                if len(near) > 1:
                    strata = [values for _, _, values in near]
                    n = sum(map(len, strata))
                    told = numbers(iqm_interval(strata), 5)
                    rows.append({"arm": arm, "studies": len(near), "n": n, "density": near[0][0], "iqm": told})
    return rows


def across(studies: Mapping[str, pd.DataFrame]) -> list[Data]:
    """Each arm that comparable studies share, with every two of these studies compared, as two arms of one study are.

    Of more than `MOST` comparable studies nothing: their number of tests would leave no difference significant.
    """
    found = []
    for group in (group for group in comparable(studies) if 1 < len(group) <= MOST):
        for arm, frame in shared_arms({study: studies[study] for study in group}, {study: study for study in group}):
            there = list(frame["arm"].unique())
            found.append({"arm": arm, "studies": there, "pairs": _pairs(compared(frame), there)})
    return found


def _nearest(points: Sequence[tuple[float, str, Floats]]) -> list[tuple[float, str, Floats]]:
    """The densest point, and of each other study the one of almost its density, if there is any."""
    lead, found = points[0], dict[str, tuple[float, str, Floats]]()
    for point in sorted(points, key=lambda point: abs(point[0] - lead[0])):
        if point is lead or abs(point[0] - lead[0]) <= NEAR * lead[0]:
            found.setdefault(point[1], point)
    return [lead, *(point for study, point in found.items() if study != lead[1])]


def _gains(frame: pd.DataFrame) -> dict[str, list[tuple[float, Floats]]]:
    """By arm: density and, over seeds, gain over dense of each pruned round; none for an arm without round 0."""
    metric = headline(frame)
    scores, at = by_seed(frame, f"test_{metric.name}"), densities(frame)
    found = {}
    for arm in frame["arm"].unique():
        cells, rounds = scores.loc[arm].to_numpy(), scores.loc[arm].index
        if 0 in rounds:
            apart = cells[1:] - cells[0]
            gains = [row[~np.isnan(row)] for row in (apart if metric.higher_is_better else -apart)]
            found[str(arm)] = list(zip(at.loc[arm].to_numpy()[1:].tolist(), gains, strict=True))
    return found


def numbers(values: Any, digits: int = 6) -> list[float | int | None]:
    """Numbers as JSON has them, with so many digits that count; None for what is no finite number."""
    form = f"%.{digits}g"
    return [
        None if not math.isfinite(value) else int(value) if value.is_integer() else float(form % value)
        for value in np.asarray(values, dtype=float).tolist()
    ]


def _spreads(columns: Floats) -> Iterator[Data]:
    """Each column by round: mean, half-width, n where seeds lack it, and the seeds' own values where they differ."""
    found, seeds = spread(columns), columns.shape[-1]
    for cells, mean, half, n in zip(columns, found.mean, found.half, found.n, strict=True):
        data: Data = {"mean": numbers(mean)}
        lacking = bool((n < seeds).any())
        if lacking or (seeds > 1 and (cells != cells[:, :1]).any()):
            data |= {"half": numbers(half, 4), "seeds": [numbers(values, 5) for values in cells.T]}
        if lacking:
            data["n"] = n.tolist()
        yield data


def _ended(cells: pd.DataFrame) -> list[str]:
    """Why chains of an arm ended early, and what of a network collapsed, each with its seeds."""
    said: dict[str, list[str]] = {}
    for column, words in (("stopped", "stopped"), ("collapsed", "collapsed")):
        for row in cells.dropna(subset=[column]).itertuples() if column in cells else ():
            said.setdefault(f"{words}: {getattr(row, column)}", []).append(f"seed {row.seed} in round {row.round}")
    return [f"{what} ({', '.join(who)})" for what, who in said.items()]


def _pairs(found: pd.DataFrame, names: Sequence[str]) -> list[list[Any]]:
    """Rows of `compared`, with arms by their place; few equal pairs have no p, and say so by it."""
    arms = {arm: place for place, arm in enumerate(names)}
    told = ["density", "mean", "half", "p", "holm", "effect"]
    numbered = zip(*(numbers(found[column]) for column in told), strict=True)
    sides = zip(found["first"], found["second"], found["round"], found["n"], strict=True)
    return [
        [arms[first], arms[second], int(index), int(n), *rest]
        for (first, second, index, n), rest in zip(sides, numbered, strict=True)
    ]
