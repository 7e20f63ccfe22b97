"""The cells that `lottery wandb` is about: what their folders say of them, since no command line is composed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lottery.config.cell_config import recorded
from lottery.foundations.errors import Refused
from lottery.running.wandb_runs import Place, Told
from lottery.store.folder import CONFIG, NAME, cells
from lottery.store.ledger import Ledger


def found(paths: Iterable[Path]) -> list[Path]:
    """The folders of all begun cells in or below some folders, with that of their study in their path."""
    every = dict.fromkeys(_shown(cell) for path in paths for cell in cells(Path(os.path.abspath(path))))
    return [cell for cell in every if (cell / CONFIG).exists() or (cell / NAME).exists()]


def _shown(cell: Path) -> Path:
    """As short as it can be said from here."""
    relative = Path(os.path.relpath(cell))
    return cell if ".." in relative.parts or len(relative.parts) < 3 else relative


def told(cell: Path) -> Told:
    """Which cell a folder holds: by its ledger, or by the folders' names where no round is finished yet.

    Raises LedgerError if its files are damaged.
    """
    lines, config = Ledger(cell / NAME).lines(), recorded(cell)
    seed, arm, study, *_ = (cell.resolve(), *cell.resolve().parents)
    if lines:
        return Told(lines[0]["study"], lines[0]["arm"], lines[0]["seed"], config)
    return Told(study.name, arm.name, int(seed.name.removeprefix("seed")), config)


def place(of: Told, project: str | None, entity: str | None) -> Place:
    """Where a cell's run goes: as asked, else as its cell was configured, else as the environment says."""
    tracking: dict[str, Any] = dict(of.config.get("tracking") or {})
    project = project or tracking.get("project") or os.environ.get("WANDB_PROJECT") or "lottery"
    try:
        return Place(project, entity or tracking.get("entity") or os.environ.get("WANDB_ENTITY"))
    except ValueError as error:
        raise Refused(str(error)) from error


def store_of(cell: Path) -> Path:
    """The store that a cell was recorded with."""
    return Path(recorded(cell)["store"])
