"""Reads ledgers, or the `results.csv` of a report, into one tidy frame."""

from __future__ import annotations

import csv
import gc
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.store.folder import NAME, folders
from lottery.store.ledger import Ledger, LedgerError, Line

KEYS = ["study", "arm", "seed", "round"]
_NAMES, _COUNTS, _NUMBERS = ("study", "arm"), ("seed", "round", "rounds"), ("density", "train_steps", "early_stop_step")
_NUMERIC = ("test_", "val_", "train_", "total_", "compression_ratio", "early_stop_")
_PLAIN = {str, int, float, bool, type(None)}
_TEXT = {"study", "arm", "phase", "data", "setting", "stopped", "collapsed"}  # a digest may look like a number


def read(*paths: Path | str) -> pd.DataFrame:
    """All ledgers in or below some folders, or a report's `results.csv`: one row per round.

    Rows are sorted by `KEYS`; among arms, tickets (imp...) come first, then controls.

    What analyses measured are columns `<analysis>/<what>`, densities of layers `density/<layer>`,
    circumstances of the run, and the ledger's path, `run/<what>`.
    Raises FileNotFoundError if there is no finished round, LedgerError for a line that says less than a round's does,
    and if two ledgers contradict each other.
    """
    frame, problems = gather(*paths)
    if problems:
        raise LedgerError(problems[0])
    return frame


def gather(*paths: Path | str) -> tuple[pd.DataFrame, list[str]]:
    """What `read` gives, and a sentence for each file or cell that it leaves out where `read` would raise.

    Raises FileNotFoundError if no round is left.
    """
    rows, problems = list[dict[str, Any]](), list[str]()
    collects = gc.isenabled()
    gc.disable()  # it would look again and again at rows of which none is garbage: a third of the time
    try:
        for file in sorted({file for path in paths for file in _files(Path(path))}):
            try:
                rows += _rows(file)
            except (LedgerError, OSError) as error:
                problems.append(str(error))
    finally:
        if collects:
            gc.enable()
    if not rows and problems:
        raise LedgerError(problems[0])
    if not rows:
        raise FileNotFoundError(f"no finished round under {', '.join(map(str, paths))}")
    frame = pd.DataFrame(rows).sort_values(KEYS, key=_tickets_first, ignore_index=True)
    if frame.duplicated(KEYS).any():
        same = [column for column in frame if not str(column).startswith("run/")]
        frame = frame.drop_duplicates(same, ignore_index=True)
    for column, of in (("data", ["study"]), ("setting", ["study", "arm"])):
        for what, part in frame.groupby(of) if column in frame else ():
            if part[column].nunique() > 1:
                first, second, *_ = part.drop_duplicates(column)["run/ledger"]
                name = " ".join(map(str, what))
                problems.append(f"{first} and {second}: {name} was measured with another {column}; report one of them")
                frame = frame.drop(part.index[part[column].notna() & (part[column] != part[column].iloc[0])])
    if (twice := frame.duplicated(KEYS, keep=False)).any():
        for _, part in frame[twice].groupby(KEYS[:3], sort=False):
            first, second, *_ = part["run/ledger"].unique()
            problems.append(f"{first} and {second} hold different results for the same cell; report one of them")
        frame = frame[~twice]
        if not len(frame):
            raise LedgerError(problems[0])
    return frame.reset_index(drop=True), problems


def one_study(frame: pd.DataFrame) -> None:
    """Raises LedgerError for results of several studies: equal names of arms would be averaged together."""
    if len(studies := sorted(set(frame["study"]))) > 1:
        raise LedgerError(f"these are results of {len(studies)} studies, {', '.join(studies)}; give those of one alone")


def missing(frame: pd.DataFrame) -> list[str]:
    """What an unfinished study lacks, as far as its ledgers show: cells not begun, rounds not yet played."""
    lacking = []
    for study, part in frame.groupby("study", sort=True):
        lines = part.loc[part.groupby(["arm", "seed"])["round"].idxmax()].to_dict("records")
        last = {(line["arm"], line["seed"]): Line({str(key): value for key, value in line.items()}) for line in lines}
        for arm in sorted(set(part["arm"])):
            for seed in sorted(set(part["seed"])):
                if (line := last.get((arm, seed))) is None:
                    lacking.append(f"{study} {arm} seed {seed}: not begun")
                elif not line.is_last:
                    done, planned = line["round"], line["rounds"]
                    lacking.append(f"{study} {arm} seed {seed}: {done} of {planned} pruned rounds")
    return lacking


def _tickets_first(column: pd.Series) -> pd.Series:
    """The sort key of a column; numbers in an arm's name sort by value."""
    if column.name != "arm":
        return column
    sized = column.str.replace(r"\d+", lambda number: number[0].zfill(9), regex=True)
    return (~column.str.startswith("imp")).astype(int).astype(str) + sized


def _files(path: Path) -> list[Path]:
    if path.name == NAME or (path.suffix == ".csv" and path.is_file()):
        return [path]
    if (path / NAME).exists():
        return [path / NAME]
    return [folder / NAME for folder in folders(path) if os.path.exists(os.path.join(folder, NAME))]


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return _written(path)
    others = sorted(name for name in os.listdir(path.parent) if name.endswith(".jsonl") and name != path.name)
    found = {name.removesuffix(".jsonl"): Ledger(path.parent / name).lines() for name in others}
    rows, lines, text = list[dict[str, Any]](), Ledger(path).lines(), str(path)
    for number, line in enumerate(lines, start=1):
        where, run = f"{text}, line {number}", line.get("run", {})
        if not (isinstance(line.get("layer_densities"), dict) and isinstance(run, dict)):
            raise LedgerError(f"{where} is damaged: its layer_densities or run are none; move the file away")
        row = {key: value for key, value in line.items() if not isinstance(value, dict)}
        row |= {f"density/{layer}": value for layer, value in line["layer_densities"].items()}
        if found:
            row |= _analysed({name: told[line["round"]] for name, told in found.items() if line["round"] < len(told)})
        row = _checked(where, row)
        if any(line[key] != lines[0][key] for key in ("study", "arm", "seed")):
            raise LedgerError(f"{where} is of another cell than line 1; move the file away")
        row.update((f"run/{key}", value) for key, value in run.items())
        row["run/ledger"] = text
        rows.append(row)
    return rows


def _analysed(lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers that analyses found for a round; other values stay in the analyses' own ledgers."""
    return {
        f"{name}/{key}": value
        for name, line in lines.items()
        for key, value in line.items()
        if isinstance(value, int | float) and key not in (*KEYS, "rounds", "density")
    }


@lru_cache(maxsize=64)  # the keys of a study's lines are the same for every round
def _measured(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Of the keys of a row: the test scores, these with those at the early stop, and all that are to be numbers."""
    scores = tuple(key.removeprefix("early_stop_") for key in keys if key.startswith("early_stop_test_"))
    numbers = tuple(key for key in keys if key.startswith(_NUMERIC) or "/" in key)
    return scores, (*scores, *(f"early_stop_{score}" for score in scores)), numbers


def _is_number(value: Any) -> bool:
    kind = type(value)
    return (kind is float or kind is int) and -1e300 < value < 1e300


def _checked(where: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its types restored. Raises LedgerError if a value that every round has is missing or unusable."""
    for key in _NAMES:
        if not _usable(row.get(key)):
            raise LedgerError(f"{where}: no {key}, so it is no round's result")
    for key in _COUNTS:
        value: Any = row.get(key)
        if not _is_number(value) or value != int(value) or value < 0:
            raise LedgerError(f"{where}: no {key}, so it is no round's result")
    scores, measured, numbers = _measured(tuple(row))
    if not scores:
        raise LedgerError(f"{where}: no early_stop_test_*, so it is no round's result")
    for key in (*_NUMBERS, *measured):
        undefined = key in measured and key in row and row[key] is None  # a metric may be no finite number
        if not _is_number(row.get(key)) and not undefined:
            raise LedgerError(f"{where}: {key} is no finite number")
    for key in numbers:
        if isinstance(row[key], str):
            raise LedgerError(f"{where}: {key}={row[key]} is no number")
    for key, value in row.items():
        if type(value) not in _PLAIN or (type(value) is int and abs(value) > 1e300):
            raise LedgerError(f"{where}: {key} is neither a number nor a text")
    if not 0 <= row["density"] <= 1:
        raise LedgerError(f"{where}: density={row['density']} is not within 0 and 1")
    for key in _COUNTS:  # spreadsheets write 1 as 1.0, and 1.0 as 1
        row[key] = int(row[key])
    for key in ("density", *scores):
        if row[key] is not None:
            row[key] = float(row[key])
    return {k: math.nan if v is None else v for k, v in row.items()} if None in row.values() else row


@lru_cache(maxsize=1024)
def _usable(name: Any) -> bool:
    """Whether a name can become that of a file."""
    return isinstance(name, str) and Path(name).name == name and not name.startswith(".") and name.isprintable()


def _written(path: Path) -> list[dict[str, Any]]:
    """The rows of a report's `results.csv`, parsed by Python, since pandas may lose the last digits of numbers."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} is no results.csv of a report: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise LedgerError(f"{path}, line {number} has not as many fields as the first line")
        row = {column: text if column in _TEXT and text else _value(text) for column, text in line.items()}
        rows.append({**_checked(f"{path}, line {number}", row), "run/ledger": str(path)})
    return rows


def _value(text: str) -> Any:
    if text in ("", "True", "False"):
        return {"": None}.get(text, text == "True")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
