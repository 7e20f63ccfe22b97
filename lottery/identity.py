"""Identity: the part of a configuration that a result depends on, as plain data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lottery.calls import target_of
from lottery.catalogue import TRAINING_GROUPS, chosen
from lottery.digests import canonical
from lottery.user_code import user_code


def recipe_identity(config: Mapping[str, Any], content: str) -> dict[str, Any]:
    """What training depends on besides its ticket, steps and seeds; `content` is the digest of the data.

    Durations in `config` are in steps, so that 30 and 30it are the same.
    """
    of = chosen(TRAINING_GROUPS, config)
    nodes = {group: _node(group, node) for group, node in of.items()}
    nodes["data"] |= {"root": None, "content": content}
    nodes["data"].pop("workers", None)  # how many read changes nothing of what is read
    nodes["numerics"].pop("sparse", None)  # each phase says which of its layers are sparse
    return {**nodes, "code": user_code(list(of.values()))}


def _node(where: str, value: Any) -> Any:
    """A node as plain data without arguments that equal the function's own defaults.

    So a new argument whose default changes nothing leaves all older results where they are found.
    """
    if isinstance(value, str) and value.endswith(".safetensors") and Path(value).is_file():
        return {"content": sha256(Path(value).read_bytes()).hexdigest()}  # a file is what is in it, not where it lies
    if isinstance(value, list):
        return [_node(where, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {key: _node(f"{where}.{key}", item) for key, item in value.items() if key != "_partial_"}
    if "_target_" in value:
        target, _ = target_of(where, value)
        try:
            parameters = dict(inspect.signature(target).parameters)
        except ValueError:
            parameters = {}
        kept = {k: v for k, v in kept.items() if k not in parameters or not _equal(value[k], parameters[k].default)}
    return kept


def _equal(value: Any, default: Any) -> bool:
    """Whether they are the same to the letter: a yaml's list may be a tuple, but 1 is not true."""
    try:
        return canonical(value) == canonical(default)
    except (TypeError, ValueError):  # a default that is no plain data
        return False
