"""One ledger, or one `results.csv` of a report, as checked columns."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from lottery.store.ledger import Ledger, LedgerError

KEYS = ["study", "arm", "seed", "round"]
Columns = dict[str, list[Any]]
"""The rows of a file by column, of equal length."""
_NAMES, _COUNTS, _NUMBERS = ("study", "arm"), ("seed", "round", "rounds"), ("density", "train_steps", "early_stop_step")
_NUMERIC = ("test_", "val_", "train_", "total_", "compression_ratio", "early_stop_")
_TEXT = {"study", "arm", "phase", "data", "setting", "stopped", "collapsed"}  # a digest may look like a number
_SIGNS = {";": "semicolons", "\t": "tabs"}


class _Missing:
    """Stands where a row lacks a value that others have."""


_PLAIN = {str, int, float, bool, type(None), type(_Missing)}


def of_ledger(path: Path) -> Columns:
    """The rounds of a ledger, with what analyses beside it found; empty without a finished round.

    Raises LedgerError for damage, and for a line that says less than a round's does.
    """
    others = sorted(name for name in os.listdir(path.parent) if name.endswith(".jsonl") and name != path.name)
    found = {name.removesuffix(".jsonl"): Ledger(path.parent / name).lines() for name in others}
    lines, where = Ledger(path).lines(), f"{path}, line {{}}"
    if not lines:
        return {}
    for number, line in enumerate(lines, start=1):
        if not (isinstance(line.get("layer_densities"), dict) and isinstance(line.get("run", {}), dict)):
            message = f"{where.format(number)} is damaged: its layer_densities or run are none; move the file away"
            raise LedgerError(message)
    columns = {key: values for key, values in _columns(lines).items() if dict not in map(type, values)}
    columns |= _columns([line["layer_densities"] for line in lines], "density/")
    for name, told in found.items():
        columns |= _columns([_numbers_of(told[at]) if at < len(told) else {} for at in range(len(lines))], f"{name}/")
    _check(columns, len(lines), where, first=1)
    for key in KEYS[:3]:
        for number, value in enumerate(columns[key], start=1):
            if value != columns[key][0]:
                raise LedgerError(f"{where.format(number)} is of another cell than line 1; move the file away")
    columns |= _columns([line.get("run", {}) for line in lines], "run/", missing=math.nan)
    return columns | {"run/ledger": [str(path)] * len(lines)}


def of_results(path: Path) -> Columns:
    """The rows of a `results.csv`, parsed by Python, since pandas may lose the last digits of numbers.

    Raises LedgerError for what is no such file, and for a row that says less than a round's does.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            lines = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path} is no results.csv of a report: {error}") from error
    if len(names) == 1 and (apart := next((name for sign, name in _SIGNS.items() if sign in names[0]), "")):
        raise LedgerError(f"{path}, line 1: fields are separated by {apart}; a comma is needed")
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise LedgerError(f"{path}, line 1: the column {twice[0]} is there twice; remove or rename one")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise LedgerError(f"{path}, line {number} has not as many fields as the first line")
    if not lines:
        return {}
    columns = _columns(lines)
    for column, texts in columns.items():
        columns[column] = [text if column in _TEXT and text else _value(text) for text in texts]
    _check(columns, len(lines), f"{path}, line {{}}", first=2)
    return columns | {"run/ledger": [str(path)] * len(lines)}


def _columns(rows: Sequence[dict[str, Any]], prefix: str = "", missing: Any = _Missing) -> Columns:
    """Rows by column, with `missing` where a row lacks a key of another."""
    if len(shapes := set(map(tuple, rows))) == 1:  # as nearly all are
        values = map(list, zip(*map(dict.values, rows), strict=True))
        return {f"{prefix}{key}": column for key, column in zip(*shapes, values, strict=True)}
    keys = dict.fromkeys(chain.from_iterable(rows))
    return {f"{prefix}{key}": [row.get(key, missing) for row in rows] for key in keys}


def _numbers_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that an analysis found for a round; other values stay in the analysis's own ledger."""
    aside = (*KEYS, "rounds", "density")
    return {key: value for key, value in line.items() if isinstance(value, int | float) and key not in aside}


def _check(columns: Columns, rows: int, where: str, first: int) -> None:
    """Restores types, and puts NaN where a value is missing or undefined. The first row is line `first` of the file.

    A whole column is looked at first; only where it is unusual, value by value.
    Raises LedgerError if a value that every round has is missing or unusable.
    """
    kinds = {key: set(map(type, values)) for key, values in columns.items()}

    def refuse(key: str, usable: Callable[[Any], bool], says: str) -> None:
        for number, value in enumerate(columns.get(key, [_Missing] * rows), start=first):
            if not usable(value):
                raise LedgerError(f"{where.format(number)}: {says.format(value)}")

    for key in _NAMES:
        if kinds.get(key) != {str} or not all(map(_usable, set(columns[key]))):
            refuse(key, _usable, f"no {key}, so it is no round's result")
    for key in _COUNTS:
        if kinds.get(key) != {int} or min(columns[key]) < 0 or max(columns[key]) > 2**53:
            refuse(key, _is_count, f"no {key}, so it is no round's result")
    scores = [key.removeprefix("early_stop_") for key in columns if key.startswith("early_stop_test_")]
    if not scores:
        raise LedgerError(f"{where.format(first)}: no early_stop_test_*, so it is no round's result")
    for key in _NUMBERS:
        if not _are_numbers(columns.get(key), kinds.get(key)):
            refuse(key, _is_number, f"{key} is no finite number")
    for key in (*scores, *(f"early_stop_{score}" for score in scores)):
        if not _are_numbers(columns.get(key), kinds.get(key)):  # a metric may be no finite number
            refuse(key, lambda value: value is None or _is_number(value), f"{key} is no finite number")
    if min(columns["density"]) < 0 or max(columns["density"]) > 1:
        refuse("density", lambda value: 0 <= value <= 1, "density={} is not within 0 and 1")
    for key, values in columns.items():
        if str in kinds[key] and (key.startswith(_NUMERIC) or "/" in key):
            refuse(key, lambda value: not isinstance(value, str), f"{key}={{}} is no number")
        if not kinds[key] <= _PLAIN or (int in kinds[key] and not _are_numbers(values, kinds[key])):
            refuse(key, _is_plain, f"{key} is neither a number nor a text")
        if key in _COUNTS and kinds[key] != {int}:  # spreadsheets write 1 as 1.0, and 1.0 as 1
            columns[key] = list(map(int, values))
        elif (key == "density" or key in scores) and int in kinds[key]:
            columns[key] = [float(value) if type(value) is int else value for value in values]
        if not kinds[key].isdisjoint({type(None), type(_Missing)}):
            columns[key] = [math.nan if value is None or value is _Missing else value for value in columns[key]]


def _are_numbers(values: Sequence[Any] | None, kinds: set[type] | None) -> bool:
    if not values or not kinds or not kinds <= {int, float}:
        return False
    return min(values) > -1e300 and max(values) < 1e300 and all(map(math.isfinite, values))  # min may pass over a NaN


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN and not (type(value) is int and abs(value) > 1e300)


@lru_cache(maxsize=1024)
def _can_be_file(name: str) -> bool:
    return Path(name).name == name and not name.startswith(".") and name.isprintable()


def _usable(name: Any) -> bool:
    """Whether a name can become that of a file."""
    return isinstance(name, str) and _can_be_file(name)


def _value(text: str) -> Any:
    if text in ("", "True", "False"):
        return {"": None}.get(text, text == "True")
    for kind in (int, float) if text.isascii() and "_" not in text else ():  # Python takes 1_0 for 10
        try:
            return kind(text)
        except ValueError:
            continue
    return text
