"""What the command `lottery` changes in its own process before it runs anything."""

from __future__ import annotations

import os
import signal
import sys


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def prepare() -> None:
    """Makes code of the user's in the current folder importable, and SIGTERM an exception.

    Networks, criteria and so on are named by import path, and an installed command has its own folder on `sys.path`,
    not the current one. It is added last, so that a file there hides no library.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    raise Terminated
