"""Labels: what an arm is called in names, from the settings in which it differs from its yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lottery.foundations.digests import digest_of
from lottery.foundations.durations import NAMED, canonical


def label(name: str, arm: Mapping[str, Any], shipped: Mapping[str, Any], content: str = "") -> str:
    """The label of an arm: its name and every setting that differs from its yaml, sorted.

    >>> label("imp", {"rewind": "500", "iterative": False}, {"rewind": 0})
    'imp,iterative=false,rewind=500it'
    """
    before = dict(settings(shipped))
    given = dict.fromkeys(before) | dict(settings(arm))  # a removed key counts as null
    texts = {key: _text(key, value) for key, value in sorted(given.items())}
    if file := arm.get("file"):
        texts["file"] = _ticket(file, content)
    differs = [f"{key}={text}" for key, text in texts.items() if text != _text(key, before.get(key))]
    whole = ",".join([name, *differs]).replace("/", "_")  # it is the name of a folder
    return whole if len(whole) <= 150 else f"{whole[:140]}~{digest_of(whole)[:8]}"


def settings(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a node with its value, nested ones as `key.key`; a list is one setting."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _ticket(file: str, content: str) -> str:
    """The name of a ticket in a label: by its content, or by its pattern if each seed has its own file.

    >>> _ticket("found/imp_r7.safetensors", "c0ffee0123")
    'imp_r7~c0ffee01'
    >>> _ticket("found/imp_${seed}.safetensors", "c0ffee0123")
    'imp_seed~7d649750'
    """
    of = digest_of(file) if "${" in file else content
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '', Path(file).stem)}~{of[:8]}"


def _text(key: str, value: Any) -> str:
    if key.rpartition(".")[2] in NAMED:
        with suppress(ValueError):  # a name such as `max`, or a mistake that is refused where it is used
            return canonical(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
