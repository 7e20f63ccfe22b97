"""User code: the identity of what a configuration names by import path, found without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any


def user_code(nodes: Any) -> dict[str, str]:
    """The top-level packages that nodes name, besides ours and PyTorch's, each with its version or digest."""
    packages = {target.split(".")[0] for target in _targets(nodes)}
    return {name: _package(name) for name in sorted(packages - {"lottery", "torch"})}


def _targets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["_target_"]] if isinstance(value.get("_target_"), str) else []
        return own + [target for item in value.values() for target in _targets(item)]
    return [target for item in value for target in _targets(item)] if isinstance(value, list) else []


def _package(name: str) -> str:
    """Its version if it is installed, else the digest of all its Python files.

    An editable install counts as not installed: its files may change while its version does not.
    """
    if name in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module made by hand, without a specification
        spec = None
    places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
    root = next((Path(place) for place in places if place), None)
    if root is None:
        return "unknown"  # importing it will say why
    if "site-packages" in root.parts:
        names = importlib.metadata.packages_distributions().get(name, [])
        return " ".join(f"{each} {importlib.metadata.version(each)}" for each in sorted(set(names)))
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    seen = sha256()
    for path in files:
        seen.update(path.relative_to(root.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()
