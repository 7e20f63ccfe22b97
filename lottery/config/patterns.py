"""Patterns: what a configuration says of the weights that may be pruned. Needs no PyTorch, as names depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lottery.config.groups import SETTINGS
from lottery.foundations.errors import Refused


def patterns(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """What `prune` says besides its defaults: sorted patterns by `include` and `exclude`, where there are any.

    Phases need none of it, as their keys hold the masks: however a weight is named, its trainings are the same ones.

    >>> patterns({"prune": {"include": "LSTM", "exclude": None}})
    {'include': ['LSTM']}

    Raises Refused for what is no pattern or list of them.
    """
    node, known = config.get("prune") or {}, SETTINGS["prune"]
    if not isinstance(node, Mapping):
        raise Refused(f"prune={node}: must hold {' and '.join(known)}, each null where it says nothing")
    if unknown := [key for key in node if key not in known]:
        raise Refused(f"prune.{unknown[0]}={node[unknown[0]]}: there is no such key; allowed: {', '.join(known)}")
    found: dict[str, list[str]] = {}
    for key, value in node.items():
        listed = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(listed, list) or not all(isinstance(each, str) and each for each in listed):
            raise Refused(
                f"prune.{key}={value}: must be a pattern of parameter names or types of layers, a list of them, or null"
            )
        found |= {key: sorted(set(listed))} if listed else {}
    return found
