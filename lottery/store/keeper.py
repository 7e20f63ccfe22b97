"""Checkpoints of a phase that is being trained: the `Keeper` of `lottery.training.loop`, in a folder of the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lottery.foundations.files import Damaged, read_tensors, write_tensors
from lottery.pruning.masks import Masks
from lottery.store import leases
from lottery.training.states import State

_log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


class FolderKeeper:
    """The checkpoint of a phase, written under its lease; `pass_by` is called with state and masks at each waypoint."""

    def __init__(self, folder: Path, lease: leases.Lease, pass_by: Callable[[int, State, Masks], None]) -> None:
        self.folder, self.lease, self.pass_by = folder, lease, pass_by

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None; a damaged one is deleted with a warning."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            found = read_tensors(path)
        except Damaged as damage:
            _log.warning(f"{damage}; the phase begins anew")
            path.unlink(missing_ok=True)
            return None
        _log.warning(f"goes on from the checkpoint at step {found[1]['step']:,}")
        return found

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Replaces the checkpoint atomically. Raises Lost if another process has taken the phase over."""
        self.lease.check()
        write_tensors(self.folder / CHECKPOINT, tensors, info)

    def reach(self, first: int, last: int) -> None:
        """Counts the steps from `first` to `last` as executed before they are, so that a kill in between loses none."""
        self.lease.write(self.lease.note + last - first)
