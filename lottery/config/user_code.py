"""Digests or versions of the packages that a configuration names by import path, found without importing them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused
from lottery.store.folder import folders

_first: dict[str, str] = {}
"""What each package was when this process first looked, which is before it imports it."""


def user_code(nodes: Any) -> dict[str, str]:
    """The top-level packages that nodes name, except ours and PyTorch, each with its version or digest."""
    packages = {target.split(".")[0] for target in _targets(nodes)}
    found = {name: _package(name) for name in sorted(packages - {"lottery", "torch"})}
    for name, code in found.items():
        _first.setdefault(name, code)
    return found


def check_imported(nodes: Any) -> None:
    """Raises Refused if a package's files are no longer what this process has imported: keys would name other code."""
    if edited := [name for name, code in user_code(nodes).items() if _first[name] != code]:
        raise Refused(
            f"{edited[0]}: its files have changed since this command began, which would train what they were then and "
            "record it as what they are now; type the command again"
        )


def _targets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["_target_"]] if isinstance(value.get("_target_"), str) else []
        return own + [target for item in value.values() for target in _targets(item)]
    return [target for item in value for target in _targets(item)] if isinstance(value, list) else []


def _package(name: str) -> str:
    """The version of a package if it is installed, else a digest of its Python files and of those that they import.

    An editable install counts as not installed: its files may change while its version does not.
    """
    if name in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    if distributions := _installed(name):
        return " ".join(f"{each} {importlib.metadata.version(each)}" for each in distributions)
    seen, files, todo = sha256(), set[Path](), {name}
    done = {"lottery", "torch"}
    while todo:
        done |= todo
        found = {path for each in todo for path in _files(each)} - files
        files |= found
        imported = {top for path in found for top in _imports(path)} - done - sys.stdlib_module_names
        todo = {each for each in imported if not _installed(each)}
    for path in sorted(files):
        seen.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()


def _root(name: str) -> Path | None:
    """The folder or file of a top-level module; None if it can't be found."""
    try:
        spec = importlib.util.find_spec(name)
    except (ValueError, ImportError):  # a module made by hand, without a specification
        return None
    places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
    return next((Path(place) for place in places if place), None)


def _installed(name: str) -> list[str]:
    root = _root(name)
    inside = root is not None and "site-packages" in root.parts
    return sorted(set(_distributions().get(name, []))) if inside else []


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions that provide each top-level module. Cached, because it reads the lists of all their files."""
    return importlib.metadata.packages_distributions()


def _files(name: str) -> list[Path]:
    root = _root(name)
    if root is None:  # importing it will say why
        return []
    if not root.is_dir():
        return [root]
    return sorted(path for folder in folders(root) for path in folder.glob("*.py"))  # linked code is imported as well


def _imports(path: Path) -> set[str]:
    """The top-level modules that a Python file imports."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):
        return set()
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in whole | parts}
