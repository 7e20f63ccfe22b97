"""Batches of a project that criteria and compensations read, the same at every iteration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.utilities import CombinedLoader

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive
from lottery.training.lightning.asking import Asking
from lottery.training.lightning.calls import Call, cant
from lottery.training.lightning.parts import ProjectData, each_of
from lottery.training.lightning.seeding import seed_all


@dataclass(frozen=True)
class EvidenceBatches:
    """One epoch of training batches, the same at every iteration."""

    data: ProjectData
    order: int

    def __iter__(self) -> Iterator[Any]:
        loader = self.data.training(self.order)
        loaders, many = each_of(loader), isinstance(loader, list | tuple | dict)
        batches = iter(CombinedLoader(loader, "max_size_cycle") if many else loader)
        for batch in batches:
            yield batch[0] if many else batch
            for each in loaders:
                # a hook may set its level for the epoch that asking for a gradient seems to be
                each.curriculum.undo()


@dataclass(frozen=True)
class CalledBatches:
    """What training_step calls on each batch of an epoch, the same at every iteration."""

    asking: Asking
    calls: list[Call]
    """those of its module, as `calls_of` gives them"""
    batches: EvidenceBatches

    def __iter__(self) -> Iterator[list[Call]]:
        for number, batch in enumerate(self.batches):
            self.calls.clear()
            seed_all(derive(self.batches.order, "batch", number))  # a step may draw, as mixup does
            self.asking.outputs(batch)
            if not self.calls:
                raise Refused(
                    cant(self.asking.module, "training_step calls no part of it that holds a prunable weight")
                )
            yield self.calls.copy()
