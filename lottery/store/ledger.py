"""The ledger: one JSON line for each finished round. It is the truth; tables, plots and W&B are views of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused, Said
from lottery.foundations.metrics import BETTER, SCALE
from lottery.store import leases
from lottery.store.folder import NAME, folders


def needed(outs: Iterable[Path]) -> set[str]:
    """The keys of all phases that the ledgers below some folders are made of.

    Raises Refused where that can't be told: while a cell is being played, since what it has trained so far is in no
    ledger yet, and for a link to a disk that is not there. Raises LedgerError for a damaged ledger, FileNotFoundError
    for a folder without any: it is more likely misspelt than meant to say that nothing is needed.
    """
    keys = set[str]()
    for out in outs:
        lines = list[dict[str, Any]]()
        for folder in folders(out):
            if leases.held(folder):
                raise Refused(
                    f"{folder}: {leases.Watch(folder).holder()} works there, and what it trains is in no ledger yet; "
                    "wait until it has ended"
                )
            if lost := [path for path in sorted(folder.iterdir()) if path.is_symlink() and not path.exists()]:
                raise Refused(f"{lost[0]}: is a link to what is not there; bring that back, or remove the link")
            if (folder / NAME).exists():
                lines += [line for path in folder.glob("*.jsonl") for line in Ledger(path).lines()]
        if not lines:
            raise FileNotFoundError(f"no finished round under {out}")
        runs = [run for line in lines if isinstance(run := line.get("run"), dict)]
        keys |= {line["phase"] for line in lines if "phase" in line}
        keys |= {key for run in runs for key in run.get("drew", ())}
    return keys


class LedgerError(Said):
    """A ledger that can't be read, or that holds another result than this one."""


class Ledger:
    """The lines of one cell, in a file. Only `run`, a line's last entry, may differ between two runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines, in order; a last line torn by a kill is no line. Raises LedgerError for other damage.

        Nor is one that repeats the line before it: of two processes that wrote it in one moment, one was believed dead.
        """
        lines: list[dict[str, Any]] = []
        for number, text in enumerate(self._whole(), start=1):
            try:
                line = json.loads(text)
                if line["round"] != len(lines) or line["rounds"] < 0:
                    if lines and _result(line) == _result(lines[-1]):
                        continue
                    raise ValueError(f"it says round {line['round']}, not {len(lines)}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise LedgerError(f"{self.path}, line {number} is damaged: {error}; move the file away") from error
            lines.append(line)
        return lines

    def record(self, line: Mapping[str, Any]) -> None:
        """Appends a round, durably; one that is there already must say the same.

        Raises LedgerError if it says something else.
        """
        lines = self.lines()
        index = line["round"]
        if index < len(lines):
            was, now = _result(lines[index]), _result(line)
            if was != now:
                key = next(k for k in {**was, **now} if k not in was or k not in now or was[k] != now[k])
                raise self.refusal(index, f"{key} {was.get(key)} there, {now.get(key)} now")
            return
        try:
            with open(self.path, "ab") as file:
                file.truncate(sum(len(text) + 1 for text in self._whole()))
                file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def finished(self) -> bool:
        """Whether every planned round is there, or one that met a stopping condition."""
        lines = self.lines()
        return bool(lines) and is_last(lines[-1])

    def expect(self, known: Mapping[str, Any]) -> bool:
        """Whether there are lines already: any of the cell, or that of the round which `known` names.

        Asked before training with what is known by then, so that nothing is trained which `record` would refuse.
        Raises LedgerError if a line says something else.
        """
        lines = [line for line in self.lines() if line["round"] == known.get("round", line["round"])]
        for line in lines:
            for key, now in known.items():
                if line.get(key) != now:
                    raise self.refusal(line["round"], f"{key} {line.get(key)} there, {now} now")
        return bool(lines)

    def refusal(self, index: int, differs: str) -> LedgerError:
        """The error for a round that is there with another result; `differs` says in what."""
        return LedgerError(
            f"{self.path}: round {index} was measured under other code, data or library versions ({differs}); "
            "move it away or choose another out="
        )

    def _whole(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []


def is_last(line: Mapping[str, Any]) -> bool:
    """Whether a chain ends with this round: the last one planned, or one that met a stopping condition.

    Takes a row of a frame as well, where a line that says nothing of stopping has a NaN.
    """
    return line["round"] == line["rounds"] or isinstance(line.get("stopped"), str)


def _result(line: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must agree in; how to read the headline is no result, and lines of older versions do not say it."""
    return {key: value for key, value in line.items() if key not in ("run", BETTER, SCALE)}
