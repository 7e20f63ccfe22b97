"""Judges a paper's claims by measured results: whether each holds, with the interval that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lottery.foundations.errors import Refused, nearby
from lottery.reports.claims import EXPECTED, Claim, Point, read_claims
from lottery.reports.intervals import NEAR
from lottery.reports.results import one_study, read
from lottery.reports.statistics import FEW, judge, mean_interval

_SCORES = ("test_", "val_", "early_stop_test_")

Verdict = Literal["holds", "does not hold", "undecided", "not run here"]


class Unmeasured(Exception):
    """The results lack what a claim is about; the message says what."""


def quantity_of(claim: Claim, frame: pd.DataFrame) -> pd.Series:
    """A claim's quantity per seed; differences and ratios are paired, taken within a seed that has both sides.

    Raises Unmeasured if the frame lacks an arm, a density, the column or a seed that has both sides.
    """
    one_study(frame)
    sides = [_at(frame, claim.column, point) for point in claim.points]
    paired = pd.concat(sides, axis="columns", join="inner").dropna()
    if paired.empty:
        raise Unmeasured(f"no seed has {claim.column} at {' and '.join(map(str, claim.points))}")
    first, last = paired.iloc[:, 0], paired.iloc[:, -1]
    return {"": first, "-": first - last, "/": first / last}[claim.operator]


def estimate(claim: Claim, values: pd.Series) -> tuple[float, float, float]:
    """Mean over seeds and the ends of its 95 % t-interval.

    Ratios are averaged as logarithms, which gives the geometric mean: a / b and b / a then agree, and one seed with a
    small denominator does not dominate. Costs that are equal in all seeds are exact; scores may agree by chance, which
    `spread` tells. NaN if a value is not finite, or a ratio not positive.
    """
    ratio = claim.operator == "/"
    exact = len(values) >= FEW or (len(values) > 1 and not claim.column.startswith(_SCORES))
    if exact and values.nunique() == 1:  # rounding could move it across its bound
        return (float(values.iloc[0]),) * 3
    if not np.isfinite(values).all() or (ratio and (values <= 0).any()):
        return math.nan, math.nan, math.nan
    mean, half = mean_interval(np.log(values) if ratio else values)
    low, high = mean - half, mean + half
    return (_exp(mean), _exp(low), _exp(high)) if ratio else (mean, low, high)


def verdicts(where: Path, runs: Mapping[str, Sequence[Path]] | None = None) -> pd.DataFrame:
    """Every claim of a folder's `expected.csv`, judged by the results files beside it: one row a claim.

    With `runs` (name in the column `results` -> ledgers or results files) those claims alone, judged by these.
    Raises Refused for a file that can't be read or a name that no claim has, LedgerError for several studies in one.
    """
    path = where / EXPECTED if where.is_dir() else where
    if not path.exists():
        below = [str(found.parent) for found in sorted(where.glob(f"*/{EXPECTED}"))]
        beside = [] if where.exists() else [found.parent.name for found in sorted(where.parent.glob(f"*/{EXPECTED}"))]
        some = f"; there are some in {', '.join(below)}" if below else ""
        hint = some or (f"; {nearby(where.name, beside)}" if beside else "")
        raise Refused(f"{path}: there is no such file of claims{hint}")
    claims = read_claims(path)
    names = list(dict.fromkeys(claim.results for claim in claims))
    if unknown := [name for name in runs or () if name not in names]:
        raise Refused(f"{path} has no claim about {unknown[0]}; {nearby(unknown[0], names)}")
    if runs is None:
        runs = {name: [file] for name in names if (file := path.with_name(f"{name}.csv")).exists()}
    else:
        claims = [claim for claim in claims if claim.results in runs]
    return judged(claims, {name: read(*paths) for name, paths in runs.items()})


def judged(claims: Sequence[Claim], frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a claim: id, claim, quantity, claimed, measured, n, verdict, reason (if not run or judged) and where."""
    rows = []
    for claim in claims:
        of = {"id": claim.id, "claim": claim.claim, "quantity": claim.quantity, "claimed": claim.claimed}
        row = {**of, "measured": "-", "n": 0}
        try:
            if claim.results not in frames:
                raise Unmeasured(f"{claim.results}.csv is not there")
            values = quantity_of(claim, frames[claim.results])
        except Unmeasured as lacking:
            row |= {"verdict": "not run here", "reason": claim.not_run or str(lacking)}
        else:
            n, (mean, low, high) = len(values), estimate(claim, values)
            verdict = judge((low, high), claim.value, claim.bound) if n > 1 else "undecided"
            reason = ""
            if lost := _seeds(claim, frames[claim.results]) - n:  # the seeds that stopped or failed may be the worst
                verdict, reason = "undecided", f"{lost} of {lost + n} seeds do not have it"
            row |= {"measured": _shown(n, mean, low, high), "n": n, "verdict": verdict, "reason": reason}
        rows.append({**row, "where": claim.where})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """Verdicts as a Markdown table."""
    why = frame["reason"].map(lambda reason: f": {reason}" if reason else "")
    rows = frame.assign(verdict=frame["verdict"] + why)
    rows = rows.drop(columns="reason").rename(columns={"measured": "measured [95 % interval]", "where": "source"})
    lines = [list(map(str, rows)), ["---"] * len(rows.columns), *rows.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _seeds(claim: Claim, frame: pd.DataFrame) -> int:
    """How many seeds have any round of a claim's arms."""
    return len(set(frame[frame["arm"].isin({point.arm for point in claim.points})]["seed"]))


def _at(frame: pd.DataFrame, column: str, point: Point) -> pd.Series:
    """A column at a point, by seed."""
    cells = frame[frame["arm"] == point.arm]
    if cells.empty:
        raise Unmeasured(f"the results have no arm {point.arm}")
    densities = cells.groupby("round")["density"].mean()
    if point.density == 1:
        apart = pd.Series(0.0, index=densities.index.intersection([0]))
    else:
        apart = (densities.drop(0, errors="ignore") - point.density).abs()
    if apart.empty or apart.min() > NEAR * point.density:
        raise Unmeasured(f"the results have no round of {point}")
    if column not in frame or not pd.api.types.is_numeric_dtype(frame[column]):
        raise Unmeasured(f"the results have no numbers {column}")
    return cells[cells["round"] == apart.idxmin()].set_index("seed")[column]


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf


def _shown(n: int, mean: float, low: float, high: float) -> str:
    """Mean and interval, to two digits of its narrower half."""
    if not math.isfinite(mean):
        return "no finite number"
    half = min(mean - low, high - mean)
    scale = half if 0 < half < math.inf else abs(mean) / 100
    digits = min(max(1 - math.floor(math.log10(scale)), 0), 6) if scale else 0
    middle, least, most = (f"{x:,.{digits}f}" if abs(x) < 1e7 else f"{x:.3e}" for x in (mean, low, high))
    if n > 1 and math.isinf(half):
        return f"{middle} (n = {n}, equal)"
    return f"{middle} [{least}, {most}]" if n > 1 else f"{middle} (n = 1)"
