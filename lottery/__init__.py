"""Lottery-ticket and pruning research: iterative magnitude pruning with rewinding, reproducible and resumable."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lottery.config.recorded import load as load
    from lottery.reports.results import read as read

_LAZY = {
    "load": "lottery.config.recorded",
    "read": "lottery.reports.results",
}  # so that `lottery --help` imports no PyTorch


def __dir__() -> list[str]:
    return [*_LAZY, *(name for name in globals() if name.startswith("__"))]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lottery' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
