"""Several studies side by side: in which settings they differ, and one arm of each as if a study had them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.ledger import LedgerError
from lottery.names import SCIENCE_GROUPS, recorded
from lottery.results import ordered
from lottery.tickets.trust import leaves

MOST = 7
"""studies in one comparison: more columns and lines can't be read"""


def apart(cells: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of several studies, each by a cell of it, the settings of each that are not the same in all, as `key=value`."""
    settings: dict[str, dict[str, Any]] = {}
    for study, cell in cells.items():
        try:
            config = recorded(cell)
        except (OSError, LedgerError):  # of a results file nothing more is known
            config = {}
        science = {group: config[group] for group in SCIENCE_GROUPS if group in config}
        settings[study] = {".".join(key): value for key, value in leaves(science) if key[-1] != "_partial_"}
    keys = sorted({key for found in settings.values() for key in found})
    differing = [key for key in keys if len({repr(found.get(key)) for found in settings.values()}) > 1]
    return {study: [f"{key}={found[key]}" for key in differing if key in found] for study, found in settings.items()}


def side_by_side(frame: pd.DataFrame, settings: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each arm that several studies of the same data and headline have, its name and a frame of them as arms.

    `settings` holds what `apart` found and decides the order: the first study is the one to compare with. Of more than
    `MOST` studies nothing is compared.
    """
    names = _short(settings)
    scores = [column for column in map(str, frame) if column.startswith("early_stop_test_")]
    if "data" not in frame or frame["data"].nunique(dropna=False) > 1 or len(scores) > 1 or len(names) > MOST:
        return
    place = {study: index for index, study in enumerate(names)}
    for arm in ordered(frame):
        part = frame[frame["arm"] == arm].sort_values("study", key=lambda column: column.map(place), kind="stable")
        if (count := part["study"].nunique()) > 1:
            view = part.dropna(axis="columns", how="all")
            yield arm, view.assign(arm=part["study"].map(names), study=f"{arm} of {count} studies")


def _short(settings: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Studies by the settings in which they differ, functions by their own names; by the studies' names if too long."""
    short = {study: " ".join(map(_own_name, found)) for study, found in settings.items()}
    told = all(0 < len(name) <= 40 for name in short.values()) and len(set(short.values())) == len(short)
    return short if told else {study: study for study in settings}


def _own_name(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.removesuffix('._target_')}={value.rpartition('.')[2]}" if key.endswith("._target_") else setting
