"""The report of a study: its tables, figures and frame, made from ledgers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lottery.foundations.files import write_whole
from lottery.foundations.metrics import headline
from lottery.reports.figures import BARRIER, draw, draw_barriers
from lottery.reports.intervals import COSTS, NEAR, analysed, cost, difference, sparsest_match, summary
from lottery.reports.results import missing


def write(frame: pd.DataFrame, folder: Path) -> None:
    """Writes `report.md`, `results.csv`, `curve.png` and, if measured, `barrier.png`, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.md", render(frame).encode())
    columns = [column for column in frame if not str(column).startswith("run/")]
    write_whole(folder / "results.csv", frame[columns].to_csv(index=False).encode())
    for name, drawn in pictures(frame).items():
        drawn(frame, folder / name)


def pictures(frame: pd.DataFrame) -> Mapping[str, Callable[[pd.DataFrame, Path], None]]:
    """The figures of a study: file names and the functions that draw them."""
    measured = BARRIER in frame and frame[BARRIER].notna().any()
    return {"curve.png": draw} | ({"barrier.png": draw_barriers} if measured else {})


def render(frame: pd.DataFrame) -> str:
    """The report of one study as Markdown: its tables, and what is missing."""
    lacking = missing(frame)
    parts = [f"# {frame['study'].iloc[0]}\n", tables(frame)]
    parts += ["\n".join(["Unfinished; missing:", "", *(f"- {what}" for what in lacking), ""])] if lacking else []
    return "\n".join(parts)


def tables(frame: pd.DataFrame) -> str:
    """Accuracy by density, what analyses found, and what the training cost."""
    return "\n".join(part for part in (accuracies(frame), analyses(frame), costs(frame)) if part)


def accuracies(frame: pd.DataFrame) -> str:
    """One row per density, mean and 95 % interval over seeds of each arm; then what matches dense, if judged.

    Raises LedgerError for more than one study.
    """
    metric = headline(frame)
    score = f"test_{metric.name}"
    numbers, arms = summary(frame), list(frame["arm"].unique())
    digits = 4 if metric.share else _digits(numbers[score])
    seeds = {arm: sorted(set(frame[frame["arm"] == arm]["seed"])) for arm in arms}
    lines = [f"- {arm}: n = {len(seeds[arm])} (seeds {', '.join(map(str, seeds[arm]))})" for arm in arms]
    way = "" if metric.higher_is_better else "lower is better; "
    lines += ["", f"Test {metric.name} ({way}mean and 95 % interval over seeds) and early-stopping step:", ""]
    rows = [["density", *(column for arm in arms for column in (arm, "early stop"))]]
    if len(arms) > 1:
        rows[0] += [f"{arms[0]} - {other}" for other in arms[1:]]
    for index in sorted(set(numbers["round"])):
        at = numbers[numbers["round"] == index].set_index("arm")
        densities = [f"{at['density'][arm]:.2%}" if arm in at.index else "-" for arm in arms]
        row = [" / ".join(densities if len({*densities} - {"-"}) > 1 else {*densities} - {"-"})]
        for arm in arms:
            if arm in at.index:
                mean, half, n = at.loc[arm, [score, f"{score}_half", "n"]]
                row.append(_plus_minus(mean, half, digits) + _fewer(n, len(seeds[arm])))
                stop, stop_half = at.loc[arm, ["early_stop_step", "early_stop_step_half"]]
                row.append(_plus_minus(stop, stop_half, 0))
            else:
                row += ["-", "-"]
        for other in arms[1:]:
            mean, half, pairs = difference(frame, (arms[0], index), (other, index))
            most = max(len(seeds[arms[0]]), len(seeds[other]))
            one = index == 0 and mean == 0 and half in (0, np.inf)  # the same dense network
            both = {arms[0], other} <= set(at.index)
            if not both or one or (pairs and abs(at["density"][arms[0]] / at["density"][other] - 1) > NEAR):
                row.append("-")
            else:
                paired = _plus_minus(mean, half, digits, sign=True) + _fewer(pairs, most)
                row.append(paired if pairs else "no seed in common")
        rows.append(row)
    lines += table(rows)
    if lost := int(frame[score].isna().sum()):
        of = f"{lost} of the {len(frame)} rounds of all seeds"
        lines += ["", f"In {of} test {metric.name} is no finite number; means and differences leave them out."]
    return "\n".join([*lines, *matches(frame)]) + "\n"


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
    for arm, cells in frame.groupby("arm", sort=False):
        none = "none shown" if cells["seed"].nunique() > 1 else "takes two seeds at least"
        found = sparsest_match(frame, str(arm))
        lines.append(f"- {arm}: " + ("{:.2%}, as {} of the {} rounds down to it".format(*found) if found else none))
    return lines


def analyses(frame: pd.DataFrame) -> str:
    """One row per arm and density, with mean and 95 % interval of what analyses found; empty if none ran."""
    numbers = analysed(frame)
    if not len(numbers):
        return ""
    names = [column for column in map(str, frame) if column in set(numbers["what"])]
    rows, metric = [["arm", "density", "n", *names]], headline(frame)
    points = f"; of {metric.name}, 0.01 is one point" if metric.share else ""
    digits = {what: _digits(part["mean"]) for what, part in numbers.groupby("what")}
    counts = {what for what in names if (frame[what].dropna() % 1 == 0).all()}
    for arm in frame["arm"].unique():
        for _, found in numbers[numbers["arm"] == arm].groupby("round"):
            most, cells = found["n"].max(), dict.fromkeys(names, "-")
            for what, n, mean, half in found[["what", "n", "mean", "half"]].itertuples(index=False):
                cells[what] = _plus_minus(
                    mean, half, 0 if what in counts and abs(mean) >= 10 else digits[what]
                ) + _fewer(n, most)
            rows.append([arm, f"{found['density'].iloc[0]:.2%}", str(most), *cells.values()])
    return (
        "\n".join(
            [
                f"What analyses found (mean and 95 % interval over seeds{points}):",
                "",
                *table(rows),
            ]
        )
        + "\n"
    )


def costs(frame: pd.DataFrame) -> str:
    """One row per arm and density: steps and FLOPs of the round and of finding it; empty if not counted."""
    numbers = cost(frame)
    if not len(numbers):
        return ""
    rows = [["arm", "density", "steps", "FLOPs", "were it dense", "FLOPs with finding", "were it all dense"]]
    for arm in frame["arm"].unique():
        for _, row in numbers[numbers["arm"] == arm].iterrows():
            flops = [f"{row[column]:.2e}".replace("e+", "e") for column in COSTS[1:]]
            rows.append([arm, f"{row['density']:.2%}", f"{row['train_steps']:,.0f}", *flops])
    lines = [
        "Training cost, mean over seeds: a round alone, and with all training that was needed to find its ticket.",
        "FLOPs are in proportion to each layer's density; were it dense: of the same steps with every weight.",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def _plus_minus(mean: float, half: float, digits: int, sign: bool = False) -> str:
    if np.isnan(mean):
        return "no number"
    plus = "+" if sign else ""
    return f"{mean:{plus},.{digits}f}" + (f" ± {half:,.{digits}f}" if np.isfinite(half) else " (n = 1)")


def _digits(means: pd.Series) -> int:
    """Four decimals; where the largest mean is below 0.001, as many as show four digits of it."""
    largest = means.abs().max()
    return 3 - math.floor(math.log10(largest)) if 0 < largest < 1e-3 else 4


def _fewer(n: float, seeds: int) -> str:
    """The number of seeds, if not every seed of an arm has a value; n = 1 is already printed by _plus_minus."""
    return f" (n = {n:.0f})" if 1 < n < seeds else ""


def table(rows: list[list[str]]) -> list[str]:
    """Rows of numbers as a right-aligned Markdown table; the first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *lines[1:]]
