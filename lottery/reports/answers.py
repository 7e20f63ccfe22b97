"""What a study shows, in a sentence, and what a terminal shows of it: at most a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lottery.foundations.metrics import headline
from lottery.reports.intervals import compared, matching, sparsest, summary
from lottery.reports.layout import percent, plus_minus, table
from lottery.reports.results import missing
from lottery.reports.statistics import FEW
from lottery.reports.tables import accuracy_rows

COLUMNS, ROUNDS, STUDIES = 79, 22, 24
"""The most that a terminal shows: columns of text, rounds of one study, arms of several."""
_ARMS, _LACKING = 4, 3


def answer(frame: pd.DataFrame, found: pd.DataFrame | None = None) -> str:
    """How far down each arm of a study matches dense, or why that can't be said; `found` is `sparsest`, if known."""
    metric, arms = headline(frame), list(frame["arm"].unique())
    seeds = frame.groupby("arm")["seed"].nunique()
    n = f"n = {seeds.min()}" + (f" to {seeds.max()}" if seeds.nunique() > 1 else "")
    if not frame["round"].any():
        numbers = summary(frame)
        dense = numbers[numbers["arm"] == arms[0]].iloc[0]
        score = f"test_{metric.name}"
        value = plus_minus(dense[score], dense[f"{score}_half"], dense["n"], 4)
        return f"Nothing has been pruned yet; dense test {metric.name} is {value}; {n}."
    if metric.margin is None:
        return f"Which densities match dense is not judged, since {metric.name} has no margin; {n}."
    found = sparsest(matching(frame)).set_index("arm") if found is None else found
    said = [f"{arm} {_reach(found.loc[arm]) if arm in found.index else 'has no pruned round'}" for arm in arms[:_ARMS]]
    more = f", and {len(arms) - _ARMS} more arms" if len(arms) > _ARMS else ""
    caution = _caution(int(seeds.min()), int(seeds.max()))
    return f"{', '.join(said)}{more}; {n}, margin {100 * metric.margin:g} points.{caution}"


def better(frame: pd.DataFrame, found: pd.DataFrame) -> str:
    """At how many densities the first arm of a study beats each other one, by `compared`; empty where none was tested.

    Significant is p < 0.05 after Holm's correction.
    """
    first, metric = frame["arm"].iloc[0], headline(frame)
    said, alike = list[str](), list[str]()
    for other, pairs in found[(found["first"] == first) & found["p"].notna()].groupby("second", sort=False):
        gains = pairs["mean"][pairs["holm"] < 0.05].map(metric.gain)
        where = {"better": gains.index[gains > 0], "worse": gains.index[gains < 0]}
        told = [f"{what} than {other} {_at(pairs['density'], rows)}" for what, rows in where.items() if len(rows)]
        said += told
        alike += [] if told else [str(other)]
    more = f" and {len(alike) - _ARMS} more" if len(alike) > _ARMS else ""
    said += [f"at no density shown to differ from {' or '.join(alike[:_ARMS])}{more}"] if alike else []
    how = "(paired over seeds; shown is p < 0.05 after Holm's correction)"
    return f"{first} is {'; '.join(said)} {how}." if said else ""


def _at(densities: pd.Series, rows: pd.Index) -> str:
    most, least = (percent(end) for end in (densities[rows].max(), densities[rows].min()))
    between = f"between {most} and {least}" if len(rows) > 1 else f"at {most}"
    return f"at {len(rows)} of {len(densities)} densities, {between}"


def _reach(of: pd.Series) -> str:
    if not of["matching"]:
        return "is nowhere shown to match dense"
    if of["surely"] == of["density"]:
        return f"matches dense down to {percent(of['density'])} of the weights"
    rounds = f"{of['matching']:.0f} of the {of['rounds']:.0f} rounds"
    return f"matches dense in {rounds} down to {percent(of['density'])} of the weights"


def _caution(n: int, most: int) -> str:
    if n == 1:
        return f" {'Of arms with' if most > 1 else 'With'} one seed nothing can be shown: run more seeds."
    return f" With {n} seeds the intervals are wide, and much stays undecided." if n < FEW else ""


def screen(frame: pd.DataFrame) -> str:
    """One study on a terminal: the answer, its table of accuracies as far as a screen holds it, what is missing."""
    rows = accuracy_rows(frame, stops=False)
    if (of := len(rows) - 1) > ROUNDS:  # first and last always
        rows = [rows[0], *(rows[1 + round(place * (of - 1) / (ROUNDS - 1))] for place in range(ROUNDS))]
    widths = [max(len(row[column]) for row in rows) + 3 for column in range(len(rows[0]))]
    shown = next(count for count in range(len(widths), 1, -1) if sum(widths[:count]) < COLUMNS or count == 2)
    left = {"column": len(widths) - shown, "round": of - ROUNDS}
    hidden = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in left.items() if count > 0]
    beats = better(frame, compared(frame)) if frame["arm"].nunique() <= _ARMS else ""
    lines = [str(frame["study"].iloc[0]), answer(frame), *([beats] if beats else []), ""]
    lines += table([row[:shown] for row in rows])
    lines += [f"{' and '.join(hidden)} more: see the report"] if hidden else []
    lacking = missing(frame)
    lines += ["", "Unfinished; missing:", "", *(f"- {what}" for what in lacking[:_LACKING])] if lacking else []
    lines += [f"- and {len(lacking) - _LACKING} more"] if len(lacking) > _LACKING else []
    return "\n".join(lines) + "\n"


def overview(studies: Mapping[str, pd.DataFrame], names: Mapping[str, str]) -> str:
    """Several studies on a terminal: one row per study and arm, as many as a screen holds."""
    rows: list[Sequence[str]] = [["study", "arm", "n", "dense", "matches down to"]]
    short = {study: _short(names[study]) for study in studies}
    if len(set(short.values())) < len(short):
        short = dict(names)
    for study, frame in studies.items():
        metric, numbers = headline(frame), summary(frame)
        score = f"test_{metric.name}"
        judged = metric.margin is not None and frame["round"].any()
        found = sparsest(matching(frame)).set_index("arm") if judged else pd.DataFrame()
        seeds = frame.groupby("arm")["seed"].nunique()
        dense = numbers[numbers["round"] == 0].set_index("arm").to_dict("index")
        for arm in frame["arm"].unique():
            of, value = dense.get(arm), "-"
            if of:
                value = plus_minus(of[score], of[f"{score}_half"], of["n"], 4)
            down = "not judged" if not judged else "none shown"
            if arm in found.index and found.loc[arm, "matching"]:
                down = percent(found.loc[arm, "density"])
                down += "" if found.loc[arm, "surely"] == found.loc[arm, "density"] else " (with gaps)"
            rows.append([short[study], _short(arm), str(seeds[arm]), value, down])
    lines = table(rows[: STUDIES + 1])
    lacking = sum(len(missing(frame)) for frame in studies.values())
    lines += [f"{len(rows) - 1 - STUDIES} more arms are on the page"] if len(rows) - 1 > STUDIES else []
    return "\n".join([*lines, *([f"{lacking} cells are unfinished"] if lacking else [])]) + "\n"


def _short(name: str, most: int = 20) -> str:
    """A name cut in its middle, so that its digest stays."""
    return name if len(name) <= most else f"{name[: most - 11]}…{name[-10:]}"
