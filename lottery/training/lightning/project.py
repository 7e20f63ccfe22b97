"""A project: a user's LightningModule and data, and how they are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader

from lottery.foundations.metrics import Headline
from lottery.foundations.seeds import seeded
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks
from lottery.training import flops, ranks
from lottery.training.hardware import check_precision
from lottery.training.lightning.asking import Asking, ProjectEvidence
from lottery.training.lightning.measuring import Logged, Seeded, headline_among, measure
from lottery.training.lightning.parts import ProjectData
from lottery.training.lightning.trainers import trainer_of
from lottery.training.recipes import Recipe, Row
from lottery.training.states import State, weights


@dataclass(frozen=True)
class Project(Recipe):
    """What every phase of a project's training has in common."""

    data: ProjectData
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """arguments of Lightning's Trainer, under its own names"""
    asked: str | None = None
    """name of the metric that it is judged by; None: see `headline_among`"""
    better: str | None = None
    """`higher` or `lower`, for a metric that does not say so itself"""

    def __post_init__(self) -> None:
        check_precision(self.hardware, self.numerics)
        for name, value in self.hardware.trainer.items():
            raise ValueError(f"hardware.trainer.{name}={value}: is for modules of ours; use trainer.{name}")
        for name in ("compile", "channels_last"):
            if getattr(self.numerics, name):
                raise ValueError(f"numerics.{name}=true: is for modules of ours; a LightningModule does it itself")
        if self.numerics.sparse == "on":
            raise ValueError("numerics.sparse=on: is for modules of ours; a LightningModule's layers stay dense")
        if self.numerics.shrink != "off":
            raise ValueError("numerics.shrink=auto: is for modules of ours; a LightningModule keeps its channels")
        if self.arguments.get("sync_batchnorm") and self.hardware.device == "cpu":
            raise ValueError("trainer.sync_batchnorm=true: needs GPUs; on a CPU each process normalises its own share")

    @cached_property
    def net(self) -> pl.LightningModule:
        return self.build(0)

    def build(self, seed: int) -> pl.LightningModule:
        """Builds the module, as seeded."""
        with self.numerics.entered(), seeded(seed):
            return self.network()  # type: ignore[return-value]  # as `gives_lightning` has found

    def trainer_for(self, **more: Any) -> pl.Trainer:
        """A Trainer with the project's own arguments and these."""
        return trainer_of(self.hardware, self.numerics, self.arguments, **more)

    @cached_property
    def automatic(self) -> bool:
        """Whether Lightning steps the optimizers; with manual optimization a step is a batch."""
        return bool(self.net.automatic_optimization)

    def measured(self, state: State, parts: Iterable[str], seed: int, build: int) -> Row:
        """What validation (`val`) or `test` log for a state, on a module of its own: training's is left as it is.

        `seed` is that of what they draw, `build` the seed that the module is built with.
        """
        found: Row = {}
        for part in parts:
            found |= self._measure(state, part, seed, build)[0]
        return found

    def _measure(self, state: State, part: str, seed: int, build: int, **more: Any) -> tuple[Row, Logged]:
        with ranks.alone(), self.numerics.entered(), seeded(seed):
            module = self.build(build)
            module.load_state_dict(weights(state))
            return measure(self.trainer_for(callbacks=[Seeded(seed)], **more), module, self.data, part)

    @cached_property
    def logged(self) -> dict[str, Logged]:
        """What validation and test log, by part, seen on one batch of each."""
        start = self.net.state_dict()
        few = {"limit_val_batches": 1, "limit_test_batches": 1}
        return {part: self._measure(start, part, 0, 0, **few)[1] for part in ("val", "test")}

    @cached_property
    def headline(self) -> Headline:
        return headline_among(self.logged["val"], self.logged["test"], self.asked, self.better)

    def asking(self, module: pl.LightningModule) -> Asking:
        """Asks a module for the loss of a batch, through its training_step."""
        return Asking(module, self.data, self.trainer_for)

    def evidence(
        self, state: State, start: State, masks: Masks, init: int, order: int, rng: torch.Generator
    ) -> Evidence:
        device, module = self.hardware.device, self.build(init)
        module.load_state_dict(weights(state))
        module.eval().to(device)
        asking = self.asking(module)
        return ProjectEvidence(
            net=module,
            start={name: tensor.to(device, copy=True) for name, tensor in weights(start).items()},
            masks={name: mask.to(device, copy=True) for name, mask in masks.items()},
            batches=EvidenceBatches(self.data, order),
            outputs=asking.outputs,
            objective=asking.loss,
            rng=rng,
            asked=None if self.automatic else asking.gradients,
        )

    def sparse_weights(self, masks: Masks) -> tuple[str, ...]:
        return ()

    @cached_property
    def counted(self) -> Mapping[str, float]:
        with self.numerics.entered(), seeded(0):
            module, batch = self.build(0), next(iter(EvidenceBatches(self.data, 0)))
            return flops.by_weight(module, lambda: self.asking(module).outputs(batch), self.prunable.all)

    @property
    def examples(self) -> int:
        return self.data.accumulate  # operations are counted for a batch, whatever a batch is


@dataclass(frozen=True)
class EvidenceBatches:
    """One epoch of training batches, the same at every iteration."""

    data: ProjectData
    order: int

    def __iter__(self) -> Any:
        loader = self.data.training(self.order)
        if isinstance(loader, list | tuple | dict):
            return (batch for batch, _, _ in CombinedLoader(loader, "max_size_cycle"))
        return iter(loader)
