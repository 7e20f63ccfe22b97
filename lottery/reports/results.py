"""Reads ledgers, or the `results.csv` of a report, into one tidy frame."""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from lottery.foundations.ordering import shown_first
from lottery.reports.columns import KEYS, Columns, of_ledger, of_results
from lottery.store.folder import ERROR, NAME, error_left, folders
from lottery.store.ledger import LedgerError, Line

_SEED = re.compile(r"seed\d+")

__all__ = ["KEYS", "gather", "missing", "one_study", "read"]


def read(*paths: Path | str) -> pd.DataFrame:
    """All ledgers in or below some folders, or a report's `results.csv`: one row per round.

    Rows are sorted by `KEYS`; among arms, tickets (imp...) come first, then controls.

    What analyses measured are columns `<analysis>/<what>`, densities of layers `density/<layer>`,
    circumstances of the run, and the ledger's path, `run/<what>`.
    Raises FileNotFoundError if there is no finished round, LedgerError for a line that says less than a round's does,
    and if two ledgers contradict each other; ValueError without a path.
    """
    if not paths:
        raise ValueError('lottery.read: give it at least one folder with ledgers or results.csv, as in read("runs")')
    frame, problems = gather(*paths)
    if problems:
        raise LedgerError(problems[0])
    return frame


def gather(*paths: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """What `read` gives, and a sentence for each file or cell that it leaves out where `read` would raise.

    Raises FileNotFoundError if no round is left.
    """
    parts, problems = list[Columns](), list[str]()
    collects = gc.isenabled()
    gc.disable()  # it would look again and again at values of which none is garbage: a third of the time
    try:
        for file in sorted({file for path in paths for file in _files(Path(path))}, key=str):
            try:
                parts += filter(None, [of_results(file) if file.suffix == ".csv" else of_ledger(file)])
            except (LedgerError, OSError) as error:
                problems.append(str(error))
        if not parts and problems:
            raise LedgerError(problems[0])
        if not parts:
            raise FileNotFoundError(f"no finished round under {', '.join(map(str, paths))}")
        frame = _stacked(parts).sort_values(KEYS, key=_tickets_first, ignore_index=True)
    finally:
        if collects:
            gc.enable()
    if repeats := bool(frame.duplicated(KEYS).any()):
        same = [column for column in frame if not str(column).startswith("run/")]
        frame = frame.drop_duplicates(same, ignore_index=True)
    for column, of in (("data", ["study"]), ("setting", ["study", "arm"])):
        frame = _alike(frame, column, of, problems)
    if repeats and (twice := frame.duplicated(KEYS, keep=False)).any():
        for (_, arm, seed), part in frame[twice].groupby(KEYS[:3], sort=False):
            first, *others = part["run/ledger"].unique()
            if others:
                problems.append(f"{first} and {others[0]} hold different results for the same cell; report one of them")
            else:  # of a results file, since a ledger can't
                said = f"{arm} seed {seed} has round {part['round'].iloc[0]} twice, with different results"
                problems.append(f"{first}: {said}; remove one of its rows")
        frame = frame[~twice]
        if not len(frame):
            raise LedgerError(problems[0])
    return frame.reset_index(drop=True), problems


def _alike(frame: pd.DataFrame, column: str, of: list[str], problems: list[str]) -> pd.DataFrame:
    """The rows whose value of a column most ledgers of a study, or of its arm, have; each other one is a problem.

    Ledgers of old lack the column, and stay. Of values that are as common as each other the first stays.
    """
    counts = frame.groupby(of)[column].nunique() if column in frame else pd.Series(dtype=int)
    for what in counts.index[counts > 1]:
        names = what if isinstance(what, tuple) else (what,)
        part = frame[(frame[of] == list(names)).all(axis="columns")].dropna(subset=[column])
        told = part.drop_duplicates(["run/ledger", column])
        common = told[column].value_counts(sort=False).idxmax()
        kept = told["run/ledger"][told[column] == common].iloc[0]
        for ledger in told["run/ledger"][told[column] != common].unique():
            said = f"{ledger}: {' '.join(names)} was measured with another {column}"
            problems.append(said + (" in some rows" if ledger == kept else f" than in {kept}; report one of them"))
        frame = frame.drop(part.index[part[column] != common])
    return frame


def _stacked(parts: Sequence[Columns]) -> pd.DataFrame:
    """Files below each other; NaN where one lacks a column of another."""
    columns, total = Columns(), 0
    for part in parts:
        rows = len(part["study"])
        columns |= {key: [math.nan] * total for key in part if key not in columns}
        for key, values in columns.items():
            values += part[key] if key in part else [math.nan] * rows
        total += rows
    return pd.DataFrame(columns)


def one_study(frame: pd.DataFrame) -> None:
    """Raises LedgerError for results of several studies: equal names of arms would be averaged together."""
    if (frame["study"] != frame["study"].iloc[0]).any():
        studies = sorted(frame["study"].unique())
        raise LedgerError(f"these are results of {len(studies)} studies, {', '.join(studies)}; give those of one alone")


def missing(frame: pd.DataFrame) -> list[str]:
    """What an unfinished study lacks, as far as its folder shows: cells not begun or failed, rounds not yet played."""
    lacking = []
    told = [column for column in (*KEYS, "rounds", "stopped", "run/ledger") if column in frame]
    for study, part in frame[told].groupby("study", sort=True):
        lines = part.sort_values("round").drop_duplicates(["arm", "seed"], keep="last").to_dict("records")
        last = {(line["arm"], line["seed"]): Line({str(key): value for key, value in line.items()}) for line in lines}
        beside = _beside(part["run/ledger"].unique() if "run/ledger" in part else ())
        grid = {(arm, seed): "not begun" for arm in part["arm"].unique() for seed in part["seed"].unique()}
        for arm, seed in sorted(grid | {cell: said for cell, said in beside.items() if said}):
            said = beside.get((arm, seed)) or ""
            if (line := last.get((arm, seed))) is None:
                said = said or ("its ledger is left out" if (arm, seed) in beside else "not begun")
            elif not line.is_last:
                said = ", ".join(filter(None, [f"{line['round']} of {line['rounds']} pruned rounds", said]))
            lacking += [f"{study} {arm} seed {seed}: {said}"] if said else []
    return lacking


def _beside(ledgers: Iterable[str]) -> dict[tuple[str, int], str]:
    """Why each cell in the folders of these ledgers' studies lacks a round, as `lottery status` tells; else empty."""
    studies = dict.fromkeys(
        path.parents[2]
        for path in map(Path.resolve, map(Path, ledgers))
        if path.name == NAME and _SEED.fullmatch(path.parent.name)
    )
    found = {}
    for folder in (folder for study in studies for folder in study.glob("*/seed*") if _SEED.fullmatch(folder.name)):
        said = ""
        with suppress(OSError):  # as where it has just been moved away
            names = set(os.listdir(folder))
            if ERROR in names:
                said = f"failed: {error_left(folder)}"
            elif not (NAME in names and (folder / NAME).stat().st_size):
                said = "no round finished" if any(name[0] != "." for name in names) else "not begun"
        found[folder.parent.name, int(folder.name[4:])] = said
    return found


def _tickets_first(column: pd.Series) -> pd.Series:
    """The sort key of a column."""
    if column.name != "arm":
        return column
    places = {arm: place for place, arm in enumerate(sorted(column.unique(), key=shown_first))}
    return column.map(places)


def _files(path: Path) -> list[Path]:
    if path.name == NAME or (path.suffix == ".csv" and path.is_file()):
        return [path]
    if (path / NAME).exists():
        return [path / NAME]
    return [folder / NAME for folder in folders(path) if os.path.exists(os.path.join(folder, NAME))]
