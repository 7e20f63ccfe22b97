"""Identity: the part of a configuration that a result depends on, as plain data."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lottery.calls import target_of


def recipe_identity(config: Mapping[str, Any], content: str) -> dict[str, Any]:
    """What training depends on besides its ticket, steps and seeds; `content` is the digest of the data.

    Durations in `config` are in steps, so that 30 and 30it are the same.
    """
    groups = ("model", "data", "module", "optimizer", "budget", "numerics")
    nodes = {group: _node(group, config[group]) for group in groups}
    nodes["data"] |= {"root": None, "content": content}
    packages = {target.split(".")[0] for group in groups for target in _targets(config[group])}
    return {**nodes, "code": {name: _package(name) for name in sorted(packages - {"lottery", "torch"})}}


def _node(where: str, value: Any) -> Any:
    """A node as plain data without arguments that equal the function's own defaults.

    So a new argument whose default changes nothing leaves all older results where they are found.
    """
    if isinstance(value, list):
        return [_node(where, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {key: _node(f"{where}.{key}", item) for key, item in value.items() if key != "_partial_"}
    if "_target_" in value:
        target, _ = target_of(where, value)
        try:
            defaults = {
                k: list(p.default) if isinstance(p.default, tuple) else p.default  # a yaml has lists only
                for k, p in inspect.signature(target).parameters.items()
            }
        except ValueError:
            defaults = {}
        kept = {key: item for key, item in kept.items() if key not in defaults or defaults[key] != value[key]}
    return kept


def _targets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["_target_"]] if "_target_" in value else []
        return own + [target for item in value.values() for target in _targets(item)]
    return [target for item in value for target in _targets(item)] if isinstance(value, list) else []


def _package(name: str) -> str:
    """A user's code, by its top-level package: its version if it is installed, else the digest of all its Python files.

    An editable install counts as not installed: its files may change while its version does not.
    """
    if name in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
    module = sys.modules[name]
    root = Path(module.__file__ or next(iter(module.__path__)))
    root = root.parent if root.name == "__init__.py" else root
    if "site-packages" in root.parts:
        names = importlib.metadata.packages_distributions().get(name, [])
        return " ".join(f"{each} {importlib.metadata.version(each)}" for each in sorted(set(names)))
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    seen = sha256()
    for path in files:
        seen.update(path.relative_to(root.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()
