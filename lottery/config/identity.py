"""The identity of a recipe: the part of a configuration that its training depends on, as plain data for phase keys."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from lottery.config.groups import PLACES, SILENT, TRAINING_GROUPS, chosen, foreign
from lottery.config.nodes import target_of
from lottery.config.user_code import user_code
from lottery.foundations.digests import canonical, file_digest
from lottery.foundations.rooms import named

OF_PHASES = ("sparse", "shrink")
"""settings of numerics that a phase itself says: which of its layers are sparse, and whether channels are gone"""


def recipe_identity(config: Mapping[str, Any], content: str) -> dict[str, Any]:
    """What training depends on, except ticket, steps and seeds; `content` is the digest of the data.

    Durations in `config` are in steps, so that 30 and 30it are the same.
    """
    of = chosen(TRAINING_GROUPS, config) | ({"hardware": config["hardware"]} if foreign("hardware", config) else {})
    # where the data lie and how many workers read them changes no number
    read = {key: value for key, value in config["data"].items() if key not in PLACES}
    nodes = {group: _node(group, node) for group, node in (of | {"data": read}).items()}
    nodes["data"] |= {"root": None, "content": content}
    for key in OF_PHASES:
        nodes["numerics"].pop(key, None)
    return {**named(nodes), "code": user_code(list(of.values()))}


LOOP = 2
"""Raised whenever the numbers of Lightning projects change, so that older phases are not taken for newer ones.

2: data by stage, draws of validation and test by batch, gradients and schedulers that a resume had lost.
"""


def project_identity(config: Mapping[str, Any], content: str, steps: int, free_of_workers: bool) -> dict[str, Any]:
    """The same of a Lightning project, which has no optimizer, loss or learning rates of ours.

    The number of workers that read its data counts only where each draws from a stream of its own, so that data are not
    `free_of_workers`.
    """
    places = PLACES if free_of_workers else ("root", "pin_memory")
    read = {key: value for key, value in config["data"].items() if key not in places}
    trainer = {key: value for key, value in (config.get("trainer") or {}).items() if key not in SILENT}
    of = {"model": config["model"], "data": read, "numerics": config["numerics"]}
    nodes = {group: _node(group, node) for group, node in of.items()}
    nodes["data"] |= {"content": content}
    for key in OF_PHASES:
        nodes["numerics"].pop(key, None)
    more = {"trainer": trainer, "budget": {"steps": steps}, "loop": LOOP}
    return {**named(nodes), **more, "code": user_code([config["model"], config["data"]])}


def node_identity(where: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """A node and the user code that it names, as plain data; durations are in steps."""
    return {"node": named(_node(where, node)), "code": user_code([node])}


def _node(where: str, value: Any) -> Any:
    """A node as plain data, without arguments that equal the function's defaults.

    A new argument with a default that changes nothing therefore leaves the keys of older results as they are.
    """
    if isinstance(value, str) and os.path.isfile(value):
        return {"content": file_digest(value)}  # a file is what is in it, not where it lies
    if isinstance(value, list):
        return [_node(where, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {
        key: item if key == "_target_" else _node(f"{where}.{key}", item)
        for key, item in value.items()
        if key != "_partial_"
    }
    if "_target_" in value:
        target, _ = target_of(where, value)
        try:
            parameters = dict(inspect.signature(target).parameters)
        except ValueError:
            parameters = {}
        kept = {k: v for k, v in kept.items() if k not in parameters or not _equal(value[k], parameters[k].default)}
    return kept


def _equal(value: Any, default: Any) -> bool:
    """Whether both have the same canonical JSON: a yaml's list equals a tuple, but 1 is not true."""
    try:
        return canonical(value) == canonical(default)
    except (TypeError, ValueError):  # a default that is no plain data
        return False
