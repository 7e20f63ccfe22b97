"""Results: every ledger in one tidy frame, and what it says with its interval."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lottery.ledger import NAME, Ledger, LedgerError

MARGIN = 0.005  # half a point of accuracy: what "matches dense" allows, unless stated
NEAR = 0.03  # two densities that differ by no more than this share of one count as the same: papers round
KEYS = ["study", "arm", "seed", "round"]
COSTS = ["train_steps", "train_flops", "train_flops_dense", "total_flops", "total_flops_dense"]
_NEEDED = {"study": str, "arm": str, "seed": int, "round": int, "rounds": int, "density": float}
_TEXT = {"study", "arm", "phase", "data", "setting", "stopped"}  # a digest may look like a number


def read(*paths: Path | str) -> pd.DataFrame:
    """All ledgers in or below some folders, or a report's `results.csv`: one row a round.

    Sorted by `KEYS`, but of arms tickets come first, then those to compare them with.

    What analyses measured beside a ledger are columns `<analysis>/<what>`, densities of layers `density/<layer>`,
    circumstances of the run, and the ledger's path, `run/<what>`.
    Raises FileNotFoundError if there is no finished round, LedgerError if two ledgers contradict each other.
    """
    files = sorted({file for path in paths for file in _files(Path(path))})
    rows = [{**row, "run/ledger": str(file)} for file in files for row in _rows(file)]
    if not rows:
        raise FileNotFoundError(f"no finished round under {', '.join(map(str, paths))}")
    frame = pd.DataFrame(rows).sort_values(KEYS, key=_tickets_first, ignore_index=True)
    frame = frame.drop_duplicates([column for column in frame if not str(column).startswith("run/")], ignore_index=True)
    for column, of in (("data", ["study"]), ("setting", ["study", "arm"])):
        for what, part in frame.groupby(of) if column in frame else ():
            if part[column].nunique() > 1:
                first, second, *_ = part.drop_duplicates(column)["run/ledger"]
                name = " ".join(map(str, what))
                raise LedgerError(
                    f"{first} and {second}: {name} was measured with another {column}; report one of them"
                )
    if (twice := frame.duplicated(KEYS, keep=False)).any():
        first, second, *_ = frame[twice]["run/ledger"]
        raise LedgerError(f"{first} and {second} hold different results for the same cell; report one of them")
    return frame


def one_study(frame: pd.DataFrame) -> None:
    """Raises LedgerError for results of several studies: their arms have the same names and can't be averaged."""
    if len(studies := sorted(set(frame["study"]))) > 1:
        raise LedgerError(f"these are results of {len(studies)} studies, {', '.join(studies)}; give those of one alone")


def headline(frame: pd.DataFrame) -> str:
    """The metric that the module names as its own."""
    return next(c.removeprefix("early_stop_test_") for c in map(str, frame) if c.startswith("early_stop_test_"))


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t-interval; infinite for fewer than two values.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: n, density, and mean and half-width of accuracy and early stop."""
    one_study(frame)
    score = f"test_{headline(frame)}"
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True):
        mean, half = mean_interval(cells[score])
        stop, stop_half = mean_interval(cells["early_stop_step"])
        rows.append(
            {
                "arm": arm,
                "round": index,
                "n": len(cells),
                "density": cells["density"].mean(),
                score: mean,
                f"{score}_half": half,
                "early_stop_step": stop,
                "early_stop_step_half": stop_half,
            }
        )
    return pd.DataFrame(rows)


def analysed(frame: pd.DataFrame) -> pd.DataFrame:
    """What analyses found, a row an arm, round and `<analysis>/<what>`: n, density, mean and half-width."""
    one_study(frame)
    columns = [column for column in map(str, frame) if "/" in column and not column.startswith(("density/", "run/"))]
    rows = []
    for (arm, index), cells in frame.groupby(["arm", "round"], sort=True):
        for column in columns:
            if len(values := cells[column].dropna()):
                mean, half = mean_interval(values)
                found = {"what": column, "n": len(values), "mean": mean, "half": half}
                rows.append({"arm": arm, "round": index, "density": cells["density"].mean(), **found})
    return pd.DataFrame(rows)


def cost(frame: pd.DataFrame) -> pd.DataFrame:
    """Per arm and round: density and the mean over seeds of `COSTS`; empty if the ledgers did not count FLOPs."""
    one_study(frame)
    if not set(COSTS) <= set(frame):
        return pd.DataFrame()
    return frame.groupby(["arm", "round"], sort=True)[["density", *COSTS]].mean().dropna().reset_index()


def difference(frame: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> tuple[float, float, int]:
    """Paired difference of test scores, (arm, round) minus (arm, round): mean, half-width, seeds that have both."""
    one_study(frame)
    score = f"test_{headline(frame)}"
    sides = [
        frame[(frame["arm"] == arm) & (frame["round"] == index)].set_index("seed")[score]
        for arm, index in (first, second)
    ]
    paired = (sides[0] - sides[1]).dropna()
    if not len(paired):
        return float("nan"), float("inf"), 0
    return *mean_interval(paired), len(paired)


def matches_dense(
    frame: pd.DataFrame, arm: str, index: int, margin: float = MARGIN
) -> Literal["yes", "no", "undecided"]:
    """Whether the paired difference to the dense network lies above minus the margin, by its 95 % interval.

    *yes* if all of the interval does, *no* if none of it does, *undecided* if it straddles, or if a seed lacks the
    round: those whose chains ended early may be the worst.
    """
    mean, half, pairs = difference(frame, (arm, index), (arm, 0))
    if index == 0:
        return "yes"
    if pairs < difference(frame, (arm, 0), (arm, 0))[2]:
        return "undecided"
    if mean - half > -margin:
        return "yes"
    return "no" if mean + half < -margin else "undecided"


def sparsest_match(frame: pd.DataFrame, arm: str, margin: float = MARGIN) -> tuple[float, int, int] | None:
    """The lowest density at which an arm matches dense, how many rounds down to it do, and of how many; None if none.

    Each round is tested alone, so one match among many rounds that do not may be luck.
    """
    rounds = frame[(frame["arm"] == arm) & (frame["round"] > 0)].groupby("round")["density"].mean()
    matching = {i: float(rounds[i]) for i in rounds.index if matches_dense(frame, arm, int(i), margin) == "yes"}
    if not matching:
        return None
    density = min(matching.values())
    return density, len(matching), int((rounds >= density).sum())


def missing(frame: pd.DataFrame) -> list[str]:
    """What an unfinished study still lacks, as far as its ledgers know: cells never begun, rounds not yet played."""
    lacking = []
    for study, part in frame.groupby("study", sort=True):
        last = part.groupby(["arm", "seed"])["round"].max()
        ended = part[part["stopped"].notna()] if "stopped" in part else part.iloc[:0]
        met = set(zip(ended["arm"], ended["seed"], strict=True))  # a stopping condition
        for arm in sorted(set(part["arm"])):
            planned = int(part[part["arm"] == arm]["rounds"].iloc[0])
            for seed in sorted(set(part["seed"])):
                if (arm, seed) not in last:
                    lacking.append(f"{study} {arm} seed {seed}: not begun")
                elif (arm, seed) not in met and (done := int(last[arm, seed])) < planned:
                    lacking.append(f"{study} {arm} seed {seed}: {done} of {planned} pruned rounds")
    return lacking


def _tickets_first(column: pd.Series) -> pd.Series:
    """What to sort a column by; numbers in an arm's name by their size."""
    if column.name != "arm":
        return column
    sized = column.str.replace(r"\d+", lambda number: number[0].zfill(9), regex=True)
    return (~column.str.startswith("imp")).astype(int).astype(str) + sized


def _files(path: Path) -> list[Path]:
    if path.name == NAME or (path.suffix == ".csv" and path.is_file()):
        return [path]
    return [path / NAME] if (path / NAME).exists() else list(path.rglob(NAME))


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return _written(path)
    found = {beside.stem: Ledger(beside).lines() for beside in sorted(path.parent.glob("*.jsonl")) if beside != path}
    rows = []
    for line in Ledger(path).lines():
        beside = {name: lines[line["round"]] for name, lines in found.items() if line["round"] < len(lines)}
        row = _flat(line) | _analysed(beside)
        row["run/drew"] = [key for of in (line, *beside.values()) for key in of.get("run", {}).get("drew", ())]
        rows.append(row)
    return rows


def _analysed(lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers that analyses have for a round; what is not a number stays in their own ledgers."""
    return {
        f"{name}/{key}": value
        for name, line in lines.items()
        for key, value in line.items()
        if isinstance(value, int | float) and key not in (*KEYS, "rounds", "density")
    }


def _flat(line: dict) -> dict:
    flat = {key: value for key, value in line.items() if not isinstance(value, dict)}
    flat |= {f"density/{layer}": value for layer, value in line["layer_densities"].items()}
    return flat | {f"run/{key}": value for key, value in line.get("run", {}).items()}


def _written(path: Path) -> list[dict[str, Any]]:
    """The rows of a report's `results.csv`, by Python's own reading of numbers: that of pandas may lose last digits."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} is no results.csv of a report: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise LedgerError(f"{path}, line {number} has not as many fields as the first line")
        row = {column: text if column in _TEXT and text else _value(text) for column, text in line.items()}
        for column, kind in _NEEDED.items():
            if not isinstance(row.get(column), kind):
                raise LedgerError(f"{path}, line {number}: no {column}, so it is no results.csv of a report")
        rows.append(row)
    return rows


def _value(text: str) -> Any:
    if text in ("", "True", "False"):
        return {"": float("nan")}.get(text, text == "True")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
