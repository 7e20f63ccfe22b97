"""The package `lightning`, which is `pytorch_lightning` under a newer name: projects import either."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SAME = {
    "lightning.pytorch": "pytorch_lightning",
    "lightning.fabric": "lightning_fabric",
    "lightning": "pytorch_lightning",
}
"""Packages of Lightning by the name that they are imported by; both distributions hold the same code twice."""


def unify() -> None:
    """From now on `import lightning` gives `pytorch_lightning`, whether or not the other distribution is installed.

    Else a project's LightningModule would be no subclass of the class whose Trainer trains it. What has been imported
    before stays as it is.
    """
    if not any(isinstance(finder, _Unified) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Unified())


class _Unified(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for name in SAME:
            if fullname == name or (fullname.startswith(f"{name}.") and name != "lightning"):
                return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = next(each for each in SAME if spec.name == each or spec.name.startswith(f"{each}."))
        module = import_module(SAME[name] + spec.name.removeprefix(name))
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # which the import system has replaced
