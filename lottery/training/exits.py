"""Exits: Lightning turns Ctrl-C and SIGTERM into exit codes, and a training's caller wants the interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[None]:
    """Within the context, Lightning's exit after Ctrl-C or SIGTERM is raised as KeyboardInterrupt."""
    try:
        yield
    except SystemExit as stop:
        raise (stop.__context__ if isinstance(stop.__context__, KeyboardInterrupt) else KeyboardInterrupt) from None
