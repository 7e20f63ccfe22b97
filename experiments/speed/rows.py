"""Rows of the results table: what was measured, when and where, and whether it meets its goal."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytorch_lightning
import torch

from experiments.speed.paired import median
from lottery.foundations.machine import processor


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    goal: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Measured:
    """The rows of one measurement, with date, load and machine."""

    rows: tuple[Row, ...]
    date: str
    load: str
    machine: str


def at_least(what: str, values: Sequence[float], goal: float, form: str = ".3f") -> Row:
    met = statistics.median(values) >= goal
    return Row(what, median(values, form), f">= {goal:g}", "met" if met else "missed")


def at_most(what: str, values: Sequence[float], goal: float, form: str = ".3f") -> Row:
    met = statistics.median(values) <= goal
    return Row(what, median(values, form), f"<= {goal:g}", "met" if met else "missed")


def exactly(what: str, value: int, goal: int) -> Row:
    return Row(what, f"{value:,}", f"= {goal:,}", "met" if value == goal else "missed")


def take(measure: Callable[[], Iterator[Row]]) -> Measured:
    """Runs a measurement and prints each row as soon as it is known."""
    before, rows = os.getloadavg()[0], []
    for row in measure():
        print(f"| {row.what} | {row.measured} | {row.goal} | {row.verdict} |", flush=True)
        rows.append(row)
    now = datetime.now(UTC)
    return Measured(tuple(rows), f"{now:%Y-%m-%d %H:%M}", f"{before:.1f} to {os.getloadavg()[0]:.1f}", machine())


def read(path: Path) -> dict[str, Measured]:
    """The measurements that `write` stored, by name."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return {name: Measured(**{**one, "rows": tuple(Row(**row) for row in one["rows"])}) for name, one in found.items()}


def write(path: Path, measured: Mapping[str, Measured]) -> None:
    path.write_text(json.dumps({name: asdict(one) for name, one in measured.items()}, indent=1) + "\n")


def table(measured: Sequence[Measured]) -> str:
    lines = ["| what | median [95 % interval], n | goal | | measured on (UTC), load |", "|---|---|---|---|---|"]
    for one in measured:
        lines += [f"| {r.what} | {r.measured} | {r.goal} | {r.verdict} | {one.date}, {one.load} |" for r in one.rows]
    return "\n".join(lines)


def machine() -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor()}, {os.cpu_count()} cores, {versions}, Lightning {pytorch_lightning.__version__}"
