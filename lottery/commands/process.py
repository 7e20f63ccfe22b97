"""What the command `lottery` changes in its own process before it runs anything."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from contextlib import suppress

from lottery.foundations.errors import describe


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def prepare() -> None:
    """Makes code of the user's in the current folder importable, SIGTERM an exception, PyTorch quiet, output printable.

    Networks, criteria and so on are named by import path, and an installed command has its own folder on `sys.path`,
    not the current one. It is added last, so that a file there hides no library.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or pipe that has no ± gets a question mark, not an error
        with suppress(OSError):  # what is open for reading too can't be changed, if it has no place to go back to
            sys.stdout.reconfigure(errors="replace")
    # PyTorch's benchmark looks for a compiler, and warns on each login node that has CUDA's and no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def say(text: str) -> None:
    """Prints for a reader who may have seen enough, as `head` has: what is still to be written is written all the same.

    Where the output can't be written for another reason, as on a full disk, that is said once.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"what is printed can't be written: {describe(error)}", file=sys.stderr)


def _terminate(*_: object) -> None:
    raise Terminated
