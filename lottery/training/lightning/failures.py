"""What fails in a project's own code, as one sentence that names the method, the line and the kind of the error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType

import pytorch_lightning as pl

from lottery.foundations.errors import Lost, Refused, Said, is_theirs, place
from lottery.training import ranks

LONGEST = 300
"""characters of an error's own message: some are pages"""


class Failed(Refused):
    """A project's own code raised an error."""


@contextmanager
def explained() -> Iterator[None]:
    """Within the context, an error of a project's own code is Failed, and says where it arose."""
    try:
        yield
    except (Said, Lost):
        raise
    except Exception as error:
        alone = ranks.share()[1] == 1 or not isinstance(error, RuntimeError)  # or another process is to blame
        if alone and (sentence := explain(error)):
            raise Failed(sentence) from error
        raise


def explain(error: Exception) -> str | None:
    """The sentence; None if no code of a user's, no callback and no worker took part in the error."""
    frames = [(frame, line) for frame, line in walk_tb(error.__traceback__)]
    loading = any("torch/utils/data" in Path(frame.f_code.co_filename).as_posix() for frame, _ in frames)
    if loading and (isinstance(error, ConnectionError | EOFError) or _exited(error)):
        return (
            "data: a worker of a DataLoader died while it read; its data set ended it, or the machine did, such as for "
            "want of memory. num_workers=0 reads without workers, and shows what fails"
        )
    said = " ".join(str(error).split())
    if relayed := _relayed(str(error)):
        method, at, said = relayed
        return f"data: {method} fails in a worker: {_short(said)}{at}"
    said = _short(f"{type(error).__name__}: {said}")
    theirs = [(frame, line) for frame, line in frames if is_theirs(frame.f_code.co_filename)]
    if theirs:
        frame, line = theirs[-1]
        called = theirs[0][0]
        part = "data" if loading or isinstance(called.f_locals.get("self"), pl.LightningDataModule) else "model"
        return f"{part}: {_method(called)} fails: {said}{place(frame.f_code.co_filename, line)}"
    callbacks = [each for frame, _ in frames if isinstance(each := frame.f_locals.get("self"), pl.Callback)]
    if callbacks and not type(callbacks[-1]).__module__.startswith("lottery."):
        return f"model: {type(callbacks[-1]).__name__}, a callback that its configure_callbacks gives, fails: {said}"
    return None


def _exited(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def _relayed(text: str) -> tuple[str, str, str] | None:
    """Method, place and message of an error that a worker passes on, with its traceback as text."""
    if not text.startswith("Caught "):
        return None
    calls = re.findall(r'^\s*File "(.+)", line (\d+), in (\S+)', text, re.MULTILINE)
    theirs = [call for call in calls if is_theirs(call[0])]
    if not theirs:
        return None
    file, line, _ = theirs[-1]
    return theirs[0][2], place(file, int(line)), text.strip().splitlines()[-1]


def _method(frame: FrameType) -> str:
    """The method that a frame runs, with its class.

    >>> import sys
    >>> _method(sys._getframe())
    '<module>'
    """
    return frame.f_code.co_qualname.rpartition("<locals>.")[2]


def _short(said: str) -> str:
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
