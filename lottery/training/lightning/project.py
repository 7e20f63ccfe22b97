"""A project: a user's LightningModule and data, and how they are trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lottery.foundations.errors import Refused, describe
from lottery.foundations.metrics import Headline
from lottery.foundations.seeds import derive, seeded
from lottery.pruning.batchnorm import averaging, norms
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channels.tracing import Run
from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.contracts import Evidence
from lottery.pruning.masks import Masks
from lottery.training import flops, ranks
from lottery.training.hardware import check_precision
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.data.reading import examples_in
from lottery.training.lightning.module.asking import Asking
from lottery.training.lightning.module.calls import Calls, calls_of, cant
from lottery.training.lightning.module.evidence import CalledBatches, EvidenceBatches, ProjectEvidence
from lottery.training.lightning.module.headline import headline_among
from lottery.training.lightning.module.measuring import Logged, measure
from lottery.training.lightning.trainers import trainer_of
from lottery.training.recipes import Recipe, Row
from lottery.training.states import State, placed, weights


@dataclass(frozen=True)
class Project(Recipe):
    """What every phase of a project's training has in common."""

    trains_smaller = False

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
            raise ValueError("numerics.shrink=auto: is for modules of ours; a LightningModule trains with masks")
        if self.arguments.get("sync_batchnorm") and self.hardware.device == "cpu":
            raise ValueError("trainer.sync_batchnorm=true: needs GPUs; on a CPU each process normalises its own share")

    @cached_property
    def net(self) -> pl.LightningModule:
        return self.build(0)

    def build(self, seed: int) -> pl.LightningModule:
        """Builds the module, as seeded."""
        with self.numerics.entered(), seeded(seed):
            return self.network()  # type: ignore[return-value]  # as `gives_lightning` has found

    def loaded(self, state: State, seed: int) -> pl.LightningModule:
        module = self.build(seed)
        module.load_state_dict(weights(state))
        return module

    def trainer_for(self, **more: Any) -> pl.Trainer:
        """A Trainer with the project's own arguments and these."""
        return trainer_of(self.hardware, self.numerics, self.arguments, **more)

    @cached_property
    def automatic(self) -> bool:
        """Whether Lightning steps the optimizers; with manual optimization a step is a batch."""
        return bool(self.net.automatic_optimization)

    def measured(self, state: State, parts: Iterable[str], seed: int, build: int) -> Row:
        """What validation and test log for a state, on a module of its own: training's is left as it is."""
        found: Row = {}
        for part in parts:
            found |= self._measure(state, part, seed, build)[0]
        return found

    def _measure(self, state: State, part: str, seed: int, build: int, **limits: int) -> tuple[Row, Logged]:
        with ranks.alone(), self.numerics.entered(), seeded(seed):
            module = self.loaded(state, build)
            return measure(partial(self.trainer_for, **limits), module, self.data, part, seed)

    def with_statistics(self, state: State, examples: int, seed: int, build: int) -> State:
        """On whole batches of training, at least one, that go through training_step on a module of its own.

        They are augmented and shuffled, as training has them, and a layer averages over every call that the step makes
        of it; for modules of ours they are what evaluation sees. Layers that the module keeps in evaluation mode
        (`train` overridden, a hook), or that no batch reaches, keep the statistics that they have.
        """
        module = self.loaded(state, build)
        module.train()  # which a module may override to keep some layers frozen
        if not (layers := [layer for layer in norms(module) if layer.training]):
            return state
        with self.numerics.entered(), seeded(seed), averaging(module, layers):
            batches = EvidenceBatches(self.data, derive(seed, "statistics"))
            size = examples_in(next(iter(batches)))
            count = min(self.data.batches_per_epoch, max(1, examples // size))
            self.asking(module).pass_through(batches, count, seed)
        seen = {id(buffer) for layer in layers if layer.num_batches_tracked for buffer in layer.buffers()}
        found = module.state_dict(keep_vars=True)
        return state | {name: tensor.cpu().clone() for name, tensor in found.items() if id(tensor) in seen}

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
        self, state: State, start: Mapping[str, Tensor], masks: Masks, init: int, order: int, rng: torch.Generator
    ) -> Evidence:
        device, module = self.hardware.device, self.loaded(state, init)
        module.eval().to(device)
        asking = self.asking(module)
        return ProjectEvidence(
            net=module,
            start=placed(start, device),
            masks={name: mask.to(device, copy=True) for name, mask in masks.items()},
            batches=EvidenceBatches(self.data, order),
            outputs=asking.outputs,
            objective=asking.loss,
            rng=rng,
            asked=None if self.automatic else asking.gradients,
        )

    def calibration(self, state: State, masks: Masks, init: int, order: int) -> Pruned:
        net, asked = (self.loaded(state, init).eval().to(self.hardware.device) for _ in range(2))
        batches = CalledBatches(self.asking(asked), calls_of(asked, masks), EvidenceBatches(self.data, order))
        return Pruned(net, masks, batches, lambda net, calls: [call(net) for call in calls])

    @cached_property
    def calls(self) -> Calls:
        """How a step of validation, and one of training, run the networks. Raises Refused if they run none."""
        with ranks.alone(), self.numerics.entered(), seeded(0):
            module = self.build(0)
            calls = calls_of(module, self.prunable(module))
            measure(partial(self.trainer_for, limit_val_batches=1), module, self.data, "val", 0)
            validated = calls.copy()
            self.asking(module.eval()).outputs(next(iter(EvidenceBatches(self.data, 0))))
            return Calls.among(validated, calls[len(validated) :], self.build(0).eval())

    @property
    def run(self) -> Run:
        return self.calls.run

    @property
    def forward_passes(self) -> list[tuple[Run, int]]:
        return [(call, call.length or 1) for call in self.calls.evaluated]

    @property
    def part(self) -> str:
        return self.calls.network.path

    @property
    def example(self) -> tuple[Tensor, ...]:
        return self.calls.network.args

    def scores(self, net: nn.Module, seed: int) -> Row:
        """What validation and test log, run with the network itself, whatever the number of its channels is."""
        module, found = copy.deepcopy(net), Row()  # a Trainer stays in it
        assert isinstance(module, pl.LightningModule)
        for part in ("val", "test"):
            try:
                with ranks.alone(), self.numerics.entered(), seeded(seed):
                    found |= measure(self.trainer_for, module, self.data, part, seed)[0]
            except Exception as error:  # a user's steps may have numbers of channels written down
                raise Refused(
                    f"model: the {part} steps of {type(net).__name__} fail with the network that they are given, whose "
                    f"channels may be fewer than written down: {describe(error)}"
                ) from error
        return found

    @cached_property
    def coupling(self) -> Coupling:
        found: Coupling = super().coupling
        if not found.groups and any(call.path for call in self.calls.every):
            raise Refused(cant(self.net, "no channel lies between two layers of one of the parts that its steps call"))
        return found

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
