"""`lottery wandb workspace`: a study's saved view and report, from its ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lottery.commands.wandb.cells import found, place, told
from lottery.foundations.metrics import headline
from lottery.reports.results import read
from lottery.reports.tables import render
from lottery.reports.verdicts import table, verdicts
from lottery.running.workspace import Overview, entity_of


def overview(study: Path, project: str | None, entity: str | None) -> Overview:
    """What is shown of a study; the entity stays empty if nothing names it."""
    frame = read(study)
    where = place(told(found([study])[0]), project, entity)
    return Overview(str(frame["study"].iloc[0]), f"test_{headline(frame).name}", where.project, where.entity or "")


def specification(study: Path, project: str | None, entity: str | None) -> str:
    """The view's specification, as JSON."""
    return overview(study, project, entity or "nobody").specification()


def save(study: Path, project: str | None, entity: str | None, claims: Sequence[str] | None) -> dict[str, str]:
    """Saves view and report; returns their addresses. `claims` is a folder of claims and the name that they are about.

    Raises Refused without the extra, a key or a server.
    """
    of = overview(study, project, entity)
    judged = table(verdicts(Path(claims[0]), {claims[1]: [study]})) if claims else ""
    return replace(of, entity=entity_of(of.entity or None)).save(render(read(study)), judged)
