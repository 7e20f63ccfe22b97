"""Lottery-ticket and pruning research: iterative magnitude pruning with rewinding, reproducible and resumable.

What stands here is the public face for Python code: `read` and `load` give back what `lottery run` left, `plot` draws
it, and the other names are what a criterion, a scope, a data set or a module of your own is written with. Names in the
modules below may move; these do not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lottery.config.recorded import load as load
    from lottery.data.examples import Data as Data
    from lottery.data.examples import Examples as Examples
    from lottery.pruning.contracts import Evidence as Evidence
    from lottery.pruning.contracts import Scores as Scores
    from lottery.pruning.contracts import Target as Target
    from lottery.reports.figures import plot as plot
    from lottery.reports.results import read as read
    from lottery.training.modules import Module as Module

    __version__: str

_HOMES = {
    "Data": "lottery.data.examples",
    "Evidence": "lottery.pruning.contracts",
    "Examples": "lottery.data.examples",
    "Module": "lottery.training.modules",
    "Scores": "lottery.pruning.contracts",
    "Target": "lottery.pruning.contracts",
    "load": "lottery.config.recorded",
    "plot": "lottery.reports.figures",
    "read": "lottery.reports.results",
}
"""Where each public name is defined. A name is imported when it is first used, so that `lottery --help` needs no
PyTorch."""


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__", *(name for name in globals() if name.startswith("__"))])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lottery")
    if name not in _HOMES:
        raise AttributeError(f"module 'lottery' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
