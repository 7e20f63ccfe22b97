"""Imports torchmetrics without SciPy's signals, which take an eighth of a short command's time; import it first.

torchmetrics imports `scipy.signal` only to give `hamming` its old place there, for a package that audio is judged with.
While it is imported, something stands in that has the name and becomes the real module as soon as any other is asked
for. Nothing of it is left afterwards.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

SIGNALS = "scipy.signal"
JUDGES_AUDIO = "srmrpy"


class _StandIn(ModuleType):
    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks every module for its file
            raise AttributeError(name)
        if sys.modules.get(SIGNALS) is self:
            del sys.modules[SIGNALS]
        return getattr(import_module(SIGNALS), name)


def import_torchmetrics() -> None:
    """Imports it, in the usual way if that costs nothing or the name is needed."""
    if "torchmetrics" in sys.modules or SIGNALS in sys.modules or find_spec(JUDGES_AUDIO):
        return
    stands_in = sys.modules[SIGNALS] = _StandIn(SIGNALS)
    try:
        import_module("torchmetrics")
    finally:
        if sys.modules.get(SIGNALS) is stands_in:
            del sys.modules[SIGNALS]


import_torchmetrics()
