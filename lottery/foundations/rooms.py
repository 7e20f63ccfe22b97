"""Rooms: sub-packages that our modules lie in. Results depend on a function, not on the room that it lies in.

Study names, phase keys, ledgers and tickets hold import paths. There an own function is written without its room,
`lottery.optimizers.adam`, so that modules may move to other rooms while every result stays valid.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEPT = ("analyses", "data", "models")
"""packages that were part of recorded paths before there were rooms"""


def named(value: Any) -> Any:
    """Plain data of a configuration with every `_target_` of ours as it is written in names and digests."""
    if isinstance(value, Mapping):
        return {
            key: roomless(item) if key == "_target_" and isinstance(item, str) else named(item)
            for key, item in value.items()
        }
    return [named(item) for item in value] if isinstance(value, list) else value


def roomless(path: str) -> str:
    """An import path without the room, if it is of ours and has one.

    >>> roomless("lottery.models.lenet.lenet_5"), roomless("torch.optim.adam.Adam")
    ('lottery.models.lenet.lenet_5', 'torch.optim.adam.Adam')
    """
    parts = path.split(".")
    module = next((end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in modules()), 0)
    if 2 < module < len(parts) and parts[1] not in KEPT:
        return ".".join(["lottery", parts[2], *parts[module:]])
    return path


def roomed(path: str) -> str:
    """Where a function of ours lies now, whatever room it is said to lie in; other paths as they are.

    Raises ValueError if two modules might be meant.
    """
    parts, found = roomless(path).split("."), homes(path)
    if len(found) > 1:
        found = [module for module in found if parts[2] in defined(module)] or found[:1]
    if len(found) > 1:
        raise ValueError(f"{path} may be that of {' or of '.join(found)}")
    return ".".join([found[0], *parts[2:]]) if found and parts[1] not in KEPT else path


def homes(path: str) -> list[str]:
    """The modules of ours, in whatever rooms, that an import path can mean."""
    parts = roomless(path).split(".")
    if parts[0] != "lottery" or len(parts) < 3:
        return []
    if parts[1] in KEPT:
        return [module] if (module := ".".join(parts[:-1])) in modules() else []
    return [module for module in modules() if roomless(f"{module}.x").split(".")[:-1] == parts[:2]]


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours and the file that it is in."""
    spec = importlib.util.find_spec("lottery")
    assert spec
    root = Path(str(spec.origin)).parent
    files = {path.relative_to(root.parent).with_suffix("").parts: path for path in sorted(root.rglob("*.py"))}
    return {".".join(part for part in parts if part != "__init__"): path for parts, path in files.items()}


@cache
def defined(module: str) -> frozenset[str]:
    """The public functions and classes of a module of ours, found without importing it."""
    nodes = ast.parse(modules()[module].read_bytes()).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return frozenset(name for name in names if not name.startswith("_"))
