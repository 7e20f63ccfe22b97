"""Decides which code the configuration in a ticket file may call, before any of it is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lottery.config.groups import CONF, GROUPS
from lottery.foundations.digests import leaves
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import defined, homes, roomless


def trusted(where: Path | str, config: Mapping[str, Any], packages: tuple[str, ...] = ()) -> None:
    """Raises Refused unless a configuration is plain data and calls in each group only functions of ours made for it.

    `packages` are further import paths whose code may be called; `where` is the file, for messages.
    """
    for key, value in leaves(config):
        group, name = key[0], key[-1]
        if not all(re.fullmatch(r"[\w.*?\[\]-]+", part) for part in key):
            raise Refused(f"{where}: config.{'.'.join(key)[:60]} is not the name of a setting")
        if isinstance(value, str) and "${" in value:
            raise Refused(f"{where}: config.{'.'.join(key)}={value[:60]!r} is no plain value")
        if name != "_target_":
            continue
        known = isinstance(value, str) and roomless(value) in callable_in().get(group, ())
        if not known and not any(f"{value}.".startswith(f"{package}.") for package in packages):
            package = str(value).partition(".")[0]
            raise Refused(
                f"{where}: config.{'.'.join(key)}={value} is no {group} of lottery's own, and would run code of "
                f"{package!r}; if you know that code and trust it, say --trust {package}"
            )


@cache
def callable_in() -> dict[str, frozenset[str]]:
    """By group, without their rooms, all public functions of the modules whose functions our own yamls name there."""
    found: dict[str, set[str]] = {}
    for path in CONF.rglob("*.yaml"):
        group = path.parent.relative_to(CONF).as_posix()
        node = yaml.safe_load(path.read_text()) or {}
        for key, value in leaves(node if group in (".", "experiment") else {group: node}):
            if key[-1] == "_target_" and key[0] in (*GROUPS, "stop"):
                beside = (f"{module}.{name}" for module in homes(value) for name in defined(module))
                found.setdefault(key[0], set()).update(map(roomless, (value, *beside)))
    return {group: frozenset(targets) for group, targets in found.items()}
