"""What the command `lottery` changes in its own process before it runs anything."""

from __future__ import annotations

import logging
import os
import signal
import sys


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def prepare() -> None:
    """Makes code of the user's in the current folder importable, SIGTERM an exception, and PyTorch quiet.

    Networks, criteria and so on are named by import path, and an installed command has its own folder on `sys.path`,
    not the current one. It is added last, so that a file there hides no library.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    signal.signal(signal.SIGTERM, _terminate)
    # PyTorch's benchmark looks for a compiler, and warns on each login node that has CUDA's and no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _terminate(*_: object) -> None:
    raise Terminated
