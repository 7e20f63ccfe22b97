"""What criteria and compensations read of a project: its batches, the same at every iteration, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive, seed_all
from lottery.pruning.contracts import Evidence
from lottery.pruning.derivatives import Times
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.data.reading import each_of
from lottery.training.lightning.module.asking import Asking
from lottery.training.lightning.module.calls import Call, cant


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


@dataclass(frozen=True)
class ProjectEvidence(Evidence):
    """Evidence whose gradients are those that a project's own optimizers would see."""

    asked: Callable[[Any], dict[str, Tensor]] | None = None
    """gives the gradients of a batch, where a sum of losses would not: with manual optimization"""

    def gradients(self, batches: int = 1) -> dict[str, Tensor]:
        if self.asked is None:
            return super().gradients(batches)
        found = [self.asked(batch) for batch in self.first(batches)]
        return {
            name: torch.stack([each.get(name, torch.zeros_like(weight)) for each in found]).mean(0)
            for name, weight in self.weights.items()
        }

    def hessians(self, batches: int = 1) -> Iterator[Times]:
        self._has_one_loss("Hessian")
        return super().hessians(batches)

    def feature_changes(self, batch: Any) -> dict[str, list[tuple[Tensor, int]]]:
        self._has_one_loss("gradient in activations")
        return super().feature_changes(batch)

    def _has_one_loss(self, what: str) -> None:
        if self.asked is not None:
            raise ValueError(
                f"the module optimizes by hand, so that no single loss has a {what}; choose a criterion that reads "
                "weights, gradients or activations"
            )
