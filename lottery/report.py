"""The report of a study: table, figure and the frame behind them, made from ledgers alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lottery.comparison import apart, side_by_side
from lottery.errors import Refused
from lottery.figure import BARRIER, draw, draw_barriers
from lottery.files import replace
from lottery.results import (
    COSTS,
    MARGIN,
    NEAR,
    analysed,
    cost,
    difference,
    headline,
    missing,
    ordered,
    read,
    sparsest_match,
    summary,
)


def publish(paths: Iterable[Path], out: Path | None = None) -> None:
    """Prints and writes the report of every study among some folders; into its own folder if `out` is not given.

    Of several studies of the same data the arms that they share are then compared, with the first study named.
    Raises Refused for a results file without `out`: such a file has no folder that is its study's alone.
    """
    paths = list(paths)
    if out is None and (written := [path for path in paths if path.suffix == ".csv"]):
        raise Refused(f"{written[0]}: say with --out where the report of a results file shall go")
    frame = read(*paths)
    cells = {str(study): Path(part["run/ledger"].iloc[0]) for study, part in frame.groupby("study", sort=True)}
    order = sorted(cells, key=lambda study: [cells[study].is_relative_to(path) for path in paths].index(True))
    settings = apart({study: cells[study].parent for study in order})
    own = {study: Path(os.path.relpath(cells[study].resolve().parents[2])) for study in order}
    for study in order:
        part = frame[frame["study"] == study].dropna(axis="columns", how="all")  # another study's metrics
        folder = own[study] if out is None else out / study if len(order) > 1 else out
        if settings[study]:
            print(f"\nunlike the other studies here: {', '.join(settings[study])}")
        print(f"\n{render(part)}", flush=True)  # also where nothing can be written
        write(part, folder)
        pictures = ", ".join(str(folder / name) for name in _pictures(part))
        print(f"table   {folder / 'report.md'}\nfigure  {pictures}\nframe   {folder / 'results.csv'}")
    if views := list(side_by_side(frame, settings)):
        compare(views, settings, out or Path(os.path.commonpath([folder.parent for folder in own.values()])))


def compare(views: Iterable[tuple[str, pd.DataFrame]], settings: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Prints and writes what `side_by_side` made of studies: `comparison.md`, and for each arm a figure."""
    text = "".join(f"- {study}: {', '.join(found) or 'settings unknown'}\n" for study, found in settings.items())
    pictures = []
    for arm, view in views:
        text += f"\n{render(view)}"
        pictures.append(folder / f"comparison_{arm}.png")
        draw(view, pictures[-1])
    print(f"\n{text}", flush=True)
    replace(folder / "comparison.md", text.encode())
    print(f"table   {folder / 'comparison.md'}\nfigure  {', '.join(map(str, pictures))}")


def write(frame: pd.DataFrame, folder: Path) -> None:
    """Writes `report.md`, `results.csv`, `curve.png` and, if measured, `barrier.png`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "report.md", render(frame).encode())
    columns = [column for column in frame if not str(column).startswith("run/")]
    replace(folder / "results.csv", frame[columns].to_csv(index=False).encode())
    for name, drawn in _pictures(frame).items():
        drawn(frame, folder / name)


def _pictures(frame: pd.DataFrame) -> Mapping[str, Callable[[pd.DataFrame, Path], None]]:
    """What is drawn of a study."""
    return {"curve.png": draw} | ({"barrier.png": draw_barriers} if BARRIER in frame else {})


def render(frame: pd.DataFrame) -> str:
    """The report of one study as Markdown: accuracy by density, what analyses found, and what the training cost."""
    parts = [f"# {frame['study'].iloc[0]}\n", accuracies(frame), analyses(frame), costs(frame)]
    return "\n".join(part for part in parts if part)


def accuracies(frame: pd.DataFrame) -> str:
    """One row a density, mean and 95 % interval over seeds for each arm; then what matches dense, and what is missing.

    Raises LedgerError for more than one study.
    """
    score = f"test_{headline(frame)}"
    numbers, arms = summary(frame), ordered(frame)
    seeds = {arm: sorted(set(frame[frame["arm"] == arm]["seed"])) for arm in arms}
    lines = [f"- {arm}: n = {len(seeds[arm])} (seeds {', '.join(map(str, seeds[arm]))})" for arm in arms]
    lines += ["", f"Test {headline(frame)} (mean and 95 % interval over seeds) and early-stopping step:", ""]
    rows = [["density", *(column for arm in arms for column in (arm, "early stop"))]]
    if len(arms) > 1:
        rows[0] += [f"{arms[0]} - {other}" for other in arms[1:]]
    for index in sorted(set(numbers["round"])):
        at = numbers[numbers["round"] == index].set_index("arm")
        row = [" / ".join(dict.fromkeys(f"{density:.2%}" for density in at["density"]))]
        for arm in arms:
            if arm in at.index:
                mean, half, n = at.loc[arm, [score, f"{score}_half", "n"]]
                row.append(_plus_minus(mean, half, 4) + _fewer(n, len(seeds[arm])))
                row.append(f"{at.loc[arm, 'early_stop_step']:,.0f}")
            else:
                row += ["-", "-"]
        for other in arms[1:]:
            mean, half, pairs = difference(frame, (arms[0], index), (other, index))
            most = len(set(seeds[arms[0]]) & set(seeds[other]))
            alike = pairs and index and abs(at["density"][arms[0]] / at["density"][other] - 1) <= NEAR
            row.append(_plus_minus(mean, half, 4, sign=True) + _fewer(pairs, most) if alike else "-")
        rows.append(row)
    lines += table(rows)
    if headline(frame) != "loss":  # the margin is not of its scale
        lines += ["", f"Sparsest density that matches dense (margin {MARGIN * 100:g} points, paired over seeds):", ""]
        for arm in arms:
            none = "none shown" if len(seeds[arm]) > 1 else "takes two seeds at least"
            found = sparsest_match(frame, arm)
            lines.append(f"- {arm}: " + ("{:.2%}, as {} of the {} rounds down to it".format(*found) if found else none))
    if lacking := missing(frame):
        lines += ["", "Unfinished; missing:", "", *(f"- {what}" for what in lacking)]
    return "\n".join(lines) + "\n"


def analyses(frame: pd.DataFrame) -> str:
    """One row an arm and density, for each number that analyses found mean and 95 % interval; empty if none ran."""
    numbers = analysed(frame)
    if not len(numbers):
        return ""
    names = [column for column in map(str, frame) if column in set(numbers["what"])]
    rows = [["arm", "density", "n", *names]]
    for arm in ordered(frame):
        for _, found in numbers[numbers["arm"] == arm].groupby("round"):
            most, cells = found["n"].max(), dict.fromkeys(names, "-")
            for what, n, mean, half in found[["what", "n", "mean", "half"]].itertuples(index=False):
                cells[what] = _plus_minus(mean, half, 4 if abs(mean) < 10 else 0) + _fewer(n, most)
            rows.append([arm, f"{found['density'].iloc[0]:.2%}", str(most), *cells.values()])
    return (
        "\n".join(
            [
                "What analyses found (mean and 95 % interval over seeds; of accuracy, 0.01 is one point):",
                "",
                *table(rows),
            ]
        )
        + "\n"
    )


def costs(frame: pd.DataFrame) -> str:
    """One row an arm and density: steps and FLOPs of a round, and of all that finding it took; empty if not counted."""
    numbers = cost(frame)
    if not len(numbers):
        return ""
    rows = [["arm", "density", "steps", "FLOPs", "dense", "FLOPs with finding", "dense"]]
    for arm in ordered(frame):
        for _, row in numbers[numbers["arm"] == arm].iterrows():
            flops = [f"{row[column]:.2e}".replace("e+", "e") for column in COSTS[1:]]
            rows.append([arm, f"{row['density']:.2%}", f"{row['train_steps']:,.0f}", *flops])
    lines = [
        "Training cost, mean over seeds: a round alone, and with all training that was needed to find its ticket.",
        "FLOPs are in proportion to each layer's density; dense: of the same steps with every weight.",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def _plus_minus(mean: float, half: float, digits: int, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{mean:{plus},.{digits}f}" + (f" ± {half:,.{digits}f}" if np.isfinite(half) else " (n = 1)")


def _fewer(n: float, seeds: int) -> str:
    """Says so where not every seed of an arm has a number; of one alone it is said already."""
    return f" (n = {n:.0f})" if 1 < n < seeds else ""


def table(rows: list[list[str]]) -> list[str]:
    """Rows of numbers as a Markdown table, aligned to the right; the first row is its head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *lines[1:]]
