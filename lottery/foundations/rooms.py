"""Import paths of our own functions, with and without the room (sub-package) that their module lies in.

Study names, phase keys, ledgers and tickets hold import paths. They write a function of ours without its room,
`lottery.optimizers.adam`, so that a module may move to another room while every result stays valid.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEPT = ("analyses", "data", "models")
"""Sub-packages that recorded paths have always named: they are written with them."""


def named(value: Any) -> Any:
    """Plain data of a configuration, every `_target_` of ours without its room, as names and digests have it."""
    if isinstance(value, Mapping):
        return {
            key: roomless(item) if key == "_target_" and isinstance(item, str) else named(item)
            for key, item in value.items()
        }
    return [named(item) for item in value] if isinstance(value, list) else value


@cache
def roomless(path: str) -> str:
    """An import path without its room, if it is one of ours and has a room.

    >>> roomless("lottery.models.lenet.lenet_5"), roomless("torch.optim.adam.Adam")
    ('lottery.models.lenet.lenet_5', 'torch.optim.adam.Adam')
    """
    parts = path.split(".")
    module = next((end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in modules()), 0)
    if 2 < module < len(parts) and parts[1] not in KEPT:
        return ".".join(["lottery", parts[2], *parts[module:]])
    return path


def roomed(path: str) -> str:
    """The import path under which a function of ours can be imported now; other paths unchanged.

    Raises ValueError if functions in two rooms have that name.
    """
    parts, found = roomless(path).split("."), list(homes(path))
    if len(found) > 1:
        found = [module for module in found if parts[2] in defined(module)] or found[:1]
    if len(found) > 1:
        found = [module for module in found if path.startswith(f"{module}.")] or found
    if len(found) > 1:
        meant = " or ".join(".".join([module, *parts[2:]]) for module in found)
        raise ValueError(f"{path}: {meant} may be meant; write one of them")
    return ".".join([found[0], *parts[2:]]) if found and parts[1] not in KEPT else path


@cache
def homes(path: str) -> tuple[str, ...]:
    """Our modules, in any room, that an import path can mean."""
    parts = roomless(path).split(".")
    if parts[0] != "lottery" or len(parts) < 3:
        return ()
    if parts[1] in KEPT:
        return (module,) if (module := ".".join(parts[:-1])) in modules() else ()
    return tuple(module for module in modules() if roomless(f"{module}.x").split(".")[:-1] == parts[:2])


@cache
def modules() -> Mapping[str, Path]:
    """Our modules by import path, each with its file."""
    spec = importlib.util.find_spec("lottery")
    assert spec
    root = Path(str(spec.origin)).parent
    files = {path.relative_to(root.parent).with_suffix("").parts: path for path in sorted(root.rglob("*.py"))}
    return {".".join(part for part in parts if part != "__init__"): path for parts, path in files.items()}


@cache
def defined(module: str) -> frozenset[str]:
    """The public functions and classes of one of our modules, parsed without importing it."""
    nodes = ast.parse(modules()[module].read_bytes()).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return frozenset(name for name in names if not name.startswith("_"))
