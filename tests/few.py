"""Parameters of which a few run each time, so that `make test` answers in minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], count: int) -> list[Any]:
    """All values as parameters; those after the first `count` are slow."""
    listed = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=pytest.mark.slow if n >= count else ()) for n, value in enumerate(listed)]
