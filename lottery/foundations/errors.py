"""Errors whose messages are meant for the user. It imports no PyTorch, so that they appear at once."""

from __future__ import annotations

import argparse
import os
import sysconfig
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any

OURS = f"{Path(__file__).parents[1]}{os.sep}"
LIBRARIES = (OURS, sysconfig.get_paths()["stdlib"])
"""Folders whose files are not a user's, besides what is installed."""


class Said(Exception):
    """An error with one clear sentence for the user; the outermost handler prints only the message."""


class Refused(Said):
    """A request of the user that can't be carried out."""


def describe(error: BaseException) -> str:
    """An error as one sentence: its message if that was written for the user, else type and message."""
    if isinstance(error, Said):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):  # raised by us, with a full sentence
        return str(error)
    if isinstance(error, SystemExit):
        return f"the code that was called ended the program with sys.exit({error.code!r})"
    return f"{type(error).__name__}: {error}"


def is_theirs(file: str) -> bool:
    """Whether a file with code is a user's own."""
    parts = Path(file).parts
    return not (file.startswith(("<", *LIBRARIES)) or "site-packages" in parts or "dist-packages" in parts)


def place(file: str, line: int) -> str:
    """Where something happens, for the end of a sentence.

    >>> place("mine/criteria.py", 5)
    ' (criteria.py, line 5)'
    """
    return f" ({Path(file).name}, line {line})"


def arose(error: BaseException) -> str:
    """The last line of a user's own code that an error came through, for the end of a sentence.

    Empty if none did, and if the error is one of ours, whose sentence says what to do.
    """
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    if lines and lines[-1][0].startswith(OURS):
        return ""
    return next((place(file, line) for file, line in reversed(lines) if is_theirs(file)), "")


class Once(argparse.Action):
    """A flag that may be given once; argparse would silently take the last value."""

    def __call__(
        self, parser: argparse.ArgumentParser, args: argparse.Namespace, value: Any, flag: str | None = None
    ) -> None:
        if (before := getattr(args, self.dest)) is not None:
            parser.error(f"{flag}: is given twice, as {before} and {value}; only one can be taken")
        setattr(args, self.dest, value)


def nearby(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: similar names, and all known ones if they are few or none is similar.

    >>> nearby("lenet", ["lenet_300_100", "vgg"])
    'did you mean lenet_300_100? allowed: lenet_300_100, vgg'
    """
    close = [k for k in known if name and k.startswith(name)][:2] or get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else ""
    if hint and len(known) > 20:
        return hint
    return f"{hint} allowed: {', '.join(known)}".strip()


class Lost(Exception):
    """Another process has taken over the work in this folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: another process took this work over")
        self.folder = folder
