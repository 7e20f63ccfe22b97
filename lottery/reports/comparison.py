"""Compares studies: the settings in which they differ, and frames that hold one arm of several studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.config.cell_config import recorded, science
from lottery.config.differences import apart
from lottery.foundations.metrics import headline
from lottery.store.ledger import LedgerError

MOST = 7
"""The most studies in one printed figure; the page lets choose among more."""


def differing(cells: Mapping[str, Path]) -> dict[str, list[str] | None]:
    """For each study, given by one of its cells, its values of the settings in which the studies differ: `key=value`.

    None for a study whose configuration can't be read, and for all if fewer than two can.
    """
    known: dict[str, dict[str, Any]] = {}
    for study, cell in cells.items():
        try:
            known[study] = science(recorded(cell))
        except (OSError, LedgerError):  # a results file has no configuration beside it
            continue
    if len(known) < 2 <= len(cells):  # nothing to compare with
        known = {}
    unlike = apart(known)
    return {study: unlike.get(study) for study in cells}


def comparable(studies: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    """Groups of studies with the same data, and a headline of the same name and direction.

    A study of older ledgers, without `data`, is alone.
    """
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for study, frame in studies.items():
        data = str(frame["data"].iloc[0]) if "data" in frame else study
        metric = headline(frame)
        groups.setdefault((data, metric.name, metric.higher_is_better), []).append(study)
    return list(groups.values())


def shared_arms(studies: Mapping[str, pd.DataFrame], names: Mapping[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each arm that at least two studies have, with a frame in which these studies, by `names`, take the place of arms.

    The studies keep their order: the others are compared with the first.
    """
    arms = dict.fromkeys(arm for frame in studies.values() for arm in frame["arm"])
    for arm in arms:
        parts = {study: frame[frame["arm"] == arm] for study, frame in studies.items()}
        parts = {study: part for study, part in parts.items() if len(part)}
        if len(parts) > 1:
            frame = pd.concat([part.assign(arm=names[study]) for study, part in parts.items()], ignore_index=True)
            yield arm, frame.assign(study=f"{arm} of {len(parts)} studies")
