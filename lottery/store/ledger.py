"""The ledger: one JSON line for each finished round. It is the truth; tables, plots and W&B are views of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused, Said
from lottery.store import leases
from lottery.store.folder import NAME, folders


def needed(outs: Iterable[Path]) -> set[str]:
    """The keys of all phases that the ledgers below some folders were made from.

    Raises Refused where they can't be known: while a cell is running, because no ledger names yet what it has trained
    so far, and for a broken link, because ledgers may lie behind it. Raises LedgerError for a damaged ledger, and
    FileNotFoundError for a folder without ledgers, which is more likely misspelt than meant to need nothing.
    """
    keys = set[str]()
    for out in outs:
        lines = list[Line]()
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


class Line(dict[str, Any]):
    """What a ledger says of one finished round: a JSON object, whose keys `docs/concepts/ledger.md` lists.

    It is a dictionary, because the metrics of a module and the results of an analysis have keys of their own.
    """

    @property
    def is_last(self) -> bool:
        """Whether the chain ends with this round: the last one planned, or one that met a stopping condition.

        Works for the row of a frame, too, where a line without `stopped` has a NaN.
        """
        return self["round"] == self["rounds"] or isinstance(self.get("stopped"), str)

    def unlike(self, other: Mapping[str, Any]) -> list[str]:
        """The keys in which two runs of a round disagree, of those that both lines have, since either may be older.

        A line without `stopped` says that its chain goes on, so that this key always counts; `run` never does.
        """
        shared = [key for key in self if key in other and key != "run"]
        return [key for key in dict.fromkeys([*shared, "stopped"]) if self.get(key) != other.get(key)]


class LedgerError(Said):
    """A ledger can't be read, or holds another result than the one to be recorded."""


class Ledger:
    """The lines of one cell, in a file. Only the entry `run` of a line may differ between two runs of a cell."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        """All complete lines, in order. Raises LedgerError for damage.

        A last line without its newline is ignored: the process that wrote it was killed. So is a duplicate of the line
        before it: two processes raced, one of which was wrongly thought dead.
        """
        texts, lines = self._whole(), list[Line]()
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # whole ones at once, in half the time
            whole = [Line(line) for line in json.loads(b"[%b]" % b",".join(texts))]
            if [line["round"] for line in whole] == list(range(len(texts))) and all(
                line["rounds"] >= 0 for line in whole
            ):
                return whole
        for number, text in enumerate(texts, start=1):
            try:
                line = Line(json.loads(text))
                if line["round"] != len(lines) or line["rounds"] < 0:
                    if lines and not line.unlike(lines[-1]):
                        continue
                    raise ValueError(f"it says round {line['round']}, not {len(lines)}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise LedgerError(f"{self.path}, line {number} is damaged: {error}; move the file away") from error
            lines.append(line)
        return lines

    def record(self, line: Mapping[str, Any]) -> None:
        """Appends the line of a round, durably. Idempotent: a round that is there already must have the same result,
        as far as both lines have a key: one of an older version may lack some.

        Raises LedgerError if it has another.
        """
        lines = self.lines()
        index = line["round"]
        if index < len(lines):
            was = lines[index]
            for key in was.unlike(line):
                raise self.refusal(index, f"{key} {was.get(key)} there, {line.get(key)} now")
            return
        try:
            with open(self.path, "ab") as file:
                file.truncate(sum(len(text) + 1 for text in self._whole()))
                file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def finished(self) -> bool:
        """Whether every planned round is there, or one that met a stopping condition."""
        lines = self.lines()
        return bool(lines) and lines[-1].is_last

    def expect(self, known: Mapping[str, Any]) -> bool:
        """Whether there is any line or, if `known` has a round, the line of that round.

        Raises LedgerError if a line contradicts `known`, the entries that are known before training. So nothing is
        trained that `record` would refuse.
        """
        lines = [line for line in self.lines() if line["round"] == known.get("round", line["round"])]
        for line in lines:
            for key, now in known.items():
                if line.get(key) != now:
                    raise self.refusal(line["round"], f"{key} {line.get(key)} there, {now} now")
        return bool(lines)

    def refusal(self, index: int, differs: str) -> LedgerError:
        """The error for a round that is recorded with another result; `differs` says how they differ."""
        return LedgerError(
            f"{self.path}: round {index} was measured under other code, data or library versions ({differs}); "
            "move it away or choose another out="
        )

    def _whole(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
