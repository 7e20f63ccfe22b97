"""The tables of a study's report, made from ledgers alone: as rows, and with their words as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from lottery.foundations.metrics import headline
from lottery.reports.intervals import (
    COSTS,
    NEAR,
    analysed,
    by_seed,
    compared,
    cost,
    matching,
    sparsest,
    summary,
)
from lottery.reports.layout import Rows, digits_of, plus_minus, table
from lottery.reports.results import missing
from lottery.reports.statistics import spread


def all_rows(frame: pd.DataFrame) -> dict[str, Rows]:
    """Every table of one study, by the name of its file; those with a header alone, or without, hold nothing."""
    rows_of = {"accuracy": accuracy_rows, "comparisons": comparison_rows, "analyses": analysis_rows, "cost": cost_rows}
    return {name: rows(frame) for name, rows in rows_of.items()}


def render(frame: pd.DataFrame, known: Mapping[str, Rows] | None = None) -> str:
    """The report of one study as Markdown: its tables, made again unless they are known, and what is missing."""
    lacking = missing(frame)
    parts = [f"# {frame['study'].iloc[0]}\n", tables(frame, known or {})]
    parts += ["\n".join(["Unfinished; missing:", "", *(f"- {what}" for what in lacking), ""])] if lacking else []
    return "\n".join(parts)


def tables(frame: pd.DataFrame, known: Mapping[str, Rows] = MappingProxyType({})) -> str:
    """Accuracy by density, what analyses found, and what the training cost."""
    parts = [accuracies(frame, known.get("accuracy")), analyses(frame, known.get("analyses"))]
    return "\n".join(filter(None, [*parts, costs(frame, known.get("cost"))]))


def accuracies(frame: pd.DataFrame, rows: Rows | None = None) -> str:
    """One row per density, mean and 95 % interval over seeds of each arm; then what matches dense, if judged.

    Raises LedgerError for more than one study.
    """
    metric = headline(frame)
    score = f"test_{metric.name}"
    lines = []
    for arm, cells in frame.groupby("arm", sort=False):
        seeds = sorted(set(cells["seed"]))
        lines.append(f"- {arm}: n = {len(seeds)} (seeds {', '.join(map(str, seeds))})")
    way = "" if metric.higher_is_better else "lower is better; "
    lines += ["", f"Test {metric.name} ({way}mean and 95 % interval over seeds) and early-stopping step:", ""]
    lines += table(accuracy_rows(frame) if rows is None else rows)
    if lost := int(frame[score].isna().sum()):
        of = f"{lost} of the {len(frame)} rounds of all seeds"
        lines += ["", f"In {of} test {metric.name} is no finite number; means and differences leave them out."]
    return "\n".join([*lines, *matches(frame)]) + "\n"


def accuracy_rows(frame: pd.DataFrame, stops: bool = True) -> list[list[str]]:
    """The table of `accuracies`: density, each arm (with its early stop), and the first arm minus each other."""
    metric = headline(frame)
    score = f"test_{metric.name}"
    numbers, arms = summary(frame), list(frame["arm"].unique())
    digits = 4 if metric.share else digits_of(numbers[score])
    seeds = frame.groupby("arm")["seed"].nunique().to_dict()
    stopped = frame.groupby(["arm", "round"])["early_stop_step"].count().to_dict()
    cells = by_seed(frame, score)
    rows = [["density", *(column for arm in arms for column in ((arm, "early stop") if stops else (arm,)))]]
    rows[0] += [f"{arms[0]} - {other}" for other in arms[1:]]
    rounds = sorted(set(numbers["round"]))
    of_round: dict[Any, dict[Any, Any]] = numbers.set_index(["arm", "round"]).to_dict("index")
    by_arm = {arm: cells.loc[arm].reindex(rounds).to_numpy() for arm in arms}
    apart = {other: spread(by_arm[arms[0]] - by_arm[other]) for other in arms[1:]}
    for place, index in enumerate(rounds):
        there = {arm: of_round[arm, index] for arm in arms if (arm, index) in of_round}
        shown = [f"{there[arm]['density']:.2%}" if arm in there else "-" for arm in arms]
        row = [" / ".join(shown if len({*shown} - {"-"}) > 1 else {*shown} - {"-"})]
        for arm in arms:
            values = ["-", "-"]
            if of := there.get(arm):
                stop, stop_half = of["early_stop_step"], of["early_stop_step_half"]
                values = [
                    plus_minus(of[score], of[f"{score}_half"], of["n"], digits, seeds[arm]),
                    plus_minus(stop, stop_half, stopped[arm, index], 0, seeds[arm]),
                ]
            row += values if stops else values[:1]
        for other, found in apart.items():
            mean, half, pairs = (float(each[place]) for each in (found.mean, found.half, found.n))
            one = index == 0 and mean == 0 and half in (0, np.inf)  # the same dense network
            both = {arms[0], other} <= set(there)
            if not both or (pairs and (one or not _near(there[arms[0]]["density"], there[other]["density"]))):
                row.append("-")
            else:
                most = max(seeds[arms[0]], seeds[other])
                row.append(plus_minus(mean, half, pairs, digits, most, sign=True) if pairs else "no seed in common")
        rows.append(row)
    return rows


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * other


def matches(frame: pd.DataFrame) -> list[str]:
    """Lines with each arm's sparsest density that matches dense, or why that is not judged; none without pruning."""
    metric = headline(frame)
    if not frame["round"].any():
        return []
    if metric.margin is None:
        why = f"half a point is a margin for metrics within 0 and 1, and {metric.name} is none"
        return ["", f"Which densities match dense is not judged: {why}."]
    margin = f"margin {metric.margin * 100:g} points, paired over seeds"
    lines = ["", f"Sparsest density that matches dense ({margin}):", ""]
    found = sparsest(matching(frame)).set_index("arm")
    for arm, cells in frame.groupby("arm", sort=False):
        arm = str(arm)
        text = "none shown" if cells["seed"].nunique() > 1 else "takes two seeds at least"
        if arm in found.index and found.loc[arm, "matching"]:
            of = found.loc[arm]
            text = f"{of['density']:.2%}, as {of['matching']:.0f} of the {of['rounds']:.0f} rounds down to it"
        lines.append(f"- {arm}: {text}")
    return lines


def comparison_rows(frame: pd.DataFrame) -> list[list[str]]:
    """One row for each two arms at each density: paired difference, n, p, p after Holm's correction, effect."""
    found, digits = compared(frame), 4 if headline(frame).share else 6
    rows = [["density", "first", "second", "first - second", "n", "p", "p (Holm)", "effect g"]]
    for one in found.to_dict("records"):
        p, corrected = (f"{one[key]:.2g}" if pd.notna(one[key]) else "-" for key in ("p", "holm"))
        effect = f"{one['effect']:.2f}" if pd.notna(one["effect"]) else "-"
        n = one["n"]
        apart = plus_minus(one["mean"], one["half"], n, digits, sign=True) if n else "no seed in common"
        rows.append([f"{one['density']:.2%}", one["first"], one["second"], apart, str(n), p, corrected, effect])
    return rows


def analyses(frame: pd.DataFrame, rows: Rows | None = None) -> str:
    """One row per arm and density, with mean and 95 % interval of what analyses found; empty if none ran."""
    rows, metric = analysis_rows(frame) if rows is None else rows, headline(frame)
    points = f"; of {metric.name}, 0.01 is one point" if metric.share else ""
    head = f"What analyses found (mean and 95 % interval over seeds{points}):"
    return "\n".join([head, "", *table(rows)]) + "\n" if rows else ""


def analysis_rows(frame: pd.DataFrame) -> list[list[str]]:
    """The table of `analyses`."""
    numbers = analysed(frame)
    if not len(numbers):
        return []
    names = [column for column in map(str, frame) if column in set(numbers["what"])]
    rows = [["arm", "density", "n", *names]]
    digits = {what: digits_of(part["mean"]) for what, part in numbers.groupby("what")}
    counts = {what for what in names if (frame[what].dropna() % 1 == 0).all()}
    for arm in frame["arm"].unique():
        for _, found in numbers[numbers["arm"] == arm].groupby("round"):
            most, cells = found["n"].max(), dict.fromkeys(names, "-")
            for what, n, mean, half in found[["what", "n", "mean", "half"]].itertuples(index=False):
                whole = 0 if what in counts and abs(mean) >= 10 else digits[what]
                cells[what] = plus_minus(mean, half, n, whole, most)
            rows.append([arm, f"{found['density'].iloc[0]:.2%}", str(most), *cells.values()])
    return rows


def costs(frame: pd.DataFrame, rows: Rows | None = None) -> str:
    """One row per arm and density: steps and FLOPs of the round and of finding it; empty if not counted."""
    if not (rows := cost_rows(frame) if rows is None else rows):
        return ""
    lines = [
        "Training cost, mean over seeds: a round alone, and with all training that was needed to find its ticket.",
        "FLOPs are in proportion to each layer's density; were it dense: of the same steps with every weight.",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def cost_rows(frame: pd.DataFrame) -> list[list[str]]:
    """The table of `costs`."""
    numbers = cost(frame)
    if not len(numbers):
        return []
    rows = [["arm", "density", "steps", "FLOPs", "were it dense", "FLOPs with finding", "were it all dense"]]
    records = numbers.to_dict("records")
    for arm in frame["arm"].unique():
        for row in (row for row in records if row["arm"] == arm):
            flops = [f"{row[column]:.2e}".replace("e+", "e") for column in COSTS[1:]]
            rows.append([arm, f"{row['density']:.2%}", f"{row['train_steps']:,.0f}", *flops])
    return rows
