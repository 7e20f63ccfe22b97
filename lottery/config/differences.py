"""Which settings changed since a cell was recorded, so that a refusal can name them and not only their digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lottery.config.cell_config import CellConfig, recorded
from lottery.config.groups import PRUNING_GROUPS
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


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
