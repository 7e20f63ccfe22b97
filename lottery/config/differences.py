"""Settings that differ: since a cell was recorded, so that a refusal can name them, and from study to study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lottery.config.cell_config import CellConfig, recorded
from lottery.config.groups import PRUNING_GROUPS
from lottery.config.labels import settings
from lottery.foundations.digests import leaves
from lottery.foundations.durations import uniform
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, LedgerError

_DIGESTED = (*PRUNING_GROUPS, "arm")
"""The groups that a cell's digest covers and its study's name does not already show."""


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings in which two configurations differ, each with both values; spellings of a duration are equal.

    >>> differing({"arm": {"rewind": "10it", "first": 0}}, {"arm": {"rewind": 10, "first": "2ep", "parent": None}})
    ['arm.first 0 there, 2ep now']
    """
    before, after = ({".".join(key): value for key, value in leaves(uniform(each))} for each in (then, now))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} {_shown(before.get(key))} there, {_shown(after.get(key))} now" for key in keys]


def changed(cell: CellConfig) -> list[str]:
    """What differs between a cell and the configuration recorded beside its ledger, if the ledger has another digest.

    Empty if the change is not in the configuration, as in code of the user's own, or if that can't be read. Raises
    LedgerError for a damaged ledger.
    """
    lines = Ledger(cell.folder / NAME).lines()
    if not lines or lines[-1].get("setting") == cell.digest:
        return []
    try:
        then = recorded(cell.folder)
    except (OSError, LedgerError):
        return []
    return differing(
        {group: then.get(group) for group in _DIGESTED}, {group: cell.config.get(group) for group in _DIGESTED}
    )


def apart(studies: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """For each study, by its name, its values of the settings in which the studies differ: `key=value`.

    >>> apart({"a": {"optimizer": {"lr": 0.1, "nesterov": True}}, "b": {"optimizer": {"lr": 0.2}}})
    {'a': ['optimizer.lr=0.1', 'optimizer.nesterov=True'], 'b': ['optimizer.lr=0.2', 'no optimizer.nesterov']}
    """
    known = {study: dict(settings(config)) for study, config in studies.items()}
    keys = sorted({key for found in known.values() for key in found if not key.endswith("._partial_")})
    unlike = [key for key in keys if len({repr(found.get(key, ...)) for found in known.values()}) > 1]
    return {
        study: [f"{key}={found[key]}" if key in found else f"no {key}" for key in unlike]
        for study, found in known.items()
    }


def called(unlike: Mapping[str, Sequence[str] | None]) -> dict[str, str]:
    """Short names for studies, made of the settings in which they differ; their own names if too long or equal."""
    short = {study: " ".join(map(_own_name, found or [])) for study, found in unlike.items()}
    told = all(0 < len(name) <= 40 for name in short.values()) and len(set(short.values())) == len(short)
    return short if told else {study: study for study in unlike}


def _own_name(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.removesuffix('._target_')}={value.rpartition('.')[2]}" if key.endswith("._target_") else setting


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
