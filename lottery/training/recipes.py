"""Recipes: what every phase of a study's training has in common, and what makes one phase."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lottery.foundations.durations import Steps
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.foundations.seeds import seeded
from lottery.pruning import masks as _masks
from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import proven
from lottery.pruning.channels.removal import Kept, Structure
from lottery.pruning.channels.tracing import Run, unused
from lottery.pruning.compensation.contracts import Pruned
from lottery.pruning.contracts import Evidence, Target
from lottery.pruning.masks import Masks, layer_densities
from lottery.pruning.prunable import Prunable
from lottery.training.costs import Costs
from lottery.training.flops import Flops, at_densities
from lottery.training.hardware import Hardware
from lottery.training.learning_rates import LearningRate, constant, warmed_up
from lottery.training.numerics import Numerics
from lottery.training.states import State

Row = dict[str, Any]
"""What one evaluation measured: `step`, `train_loss`, and loss and metrics by name after `val_` and `test_`; of our own
loop also `learning_rate` and `gradient_norm` of the last step. All are numbers, except for those that are not finite,
which are None."""


@dataclass(frozen=True)
class Budget:
    """How long training lasts and how the learning rate runs over it, in optimizer steps.

    `milestones` and `warmup` are written on the scale of `recipe_steps`, the length of the published
    recipe; a training with other `steps` stretches or shrinks the same curve.
    """

    steps: Steps
    recipe_steps: Steps
    evaluate: Steps
    """steps between two evaluations; the last step is evaluated too"""
    learning_rate: LearningRate = constant
    warmup: Steps = 0

    def __post_init__(self) -> None:
        for name in ("steps", "recipe_steps", "evaluate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1 step")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: must be 0 or more steps")

    def factor(self, step: int) -> float:
        """The factor on the optimizer's learning rate for optimizer step `step`, counted from 0."""

        def curve(step: float, of: int) -> float:
            return self.learning_rate(step * self.recipe_steps / of, self.recipe_steps)

        return warmed_up(curve, self.warmup * self.steps / self.recipe_steps)(step, self.steps)


class Contents(Protocol):
    """What a recipe's data have in common, whoever reads them."""

    @property
    def digest(self) -> str:
        """Identifies what the data hold."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""


@dataclass(frozen=True)
class Recipe(ABC):
    """What every phase of a study has in common, whoever trains it: our loop or Lightning's."""

    trains_smaller: ClassVar[bool]
    """whether a phase can train a network without its dead channels"""

    data: Contents
    network: Callable[[], nn.Module]
    """builds what is pruned, its weights drawn from the global generators"""
    budget: Budget
    numerics: Numerics = field(default_factory=Numerics)
    hardware: Hardware = field(default_factory=Hardware)
    prunable: Prunable = field(default_factory=Prunable)
    """gives a network's prunable weights by name"""

    @property
    @abstractmethod
    def headline(self) -> Headline:
        """The metric that trained networks are judged by."""

    @property
    @abstractmethod
    def net(self) -> nn.Module:
        """A network that is never trained, for what it is made of."""

    @abstractmethod
    def loaded(self, state: State, seed: int) -> nn.Module:
        """The network of a state, built with a seed."""

    @abstractmethod
    def evidence(
        self, state: State, start: Mapping[str, Tensor], masks: Masks, init: int, order: int, rng: torch.Generator
    ) -> Evidence:
        """What a criterion may look at of a trained state; `order` is the seed of the order of its batches."""

    @abstractmethod
    def measured(self, state: State, parts: Iterable[str], seed: int, build: int) -> Row:
        """Loss and metrics of a state on validation (`val`) or `test` data, by the names of a row.

        `seed` is that of what is drawn meanwhile, `build` the seed that the network is built with.
        """

    @abstractmethod
    def with_statistics(self, state: State, examples: int, seed: int, build: int) -> State:
        """The state with BatchNorm's running statistics measured anew, on at most so many training examples."""

    @abstractmethod
    def sparse_weights(self, masks: Masks) -> tuple[str, ...]:
        """Names of the weights that train on their kept values alone under masks."""

    def structure(self, masks: Masks) -> Structure:
        """What training leaves of the network under masks; empty if all of it."""
        return {}

    @property
    @abstractmethod
    def counted(self) -> Mapping[str, float]:
        """FLOPs of one example by name of a prunable weight, as `flops.by_weight` counts them."""

    @property
    @abstractmethod
    def examples(self) -> int:
        """How many of the examples that `counted` is about an optimizer step takes."""

    def flops(self, masks: Masks) -> Flops:
        """FLOPs of one optimizer step on the whole batch under masks."""
        return self.flops_at(layer_densities(masks))

    def flops_at(self, densities: Mapping[str, float]) -> Flops:
        """FLOPs of one optimizer step on the whole batch with each layer at a density; other layers are dense."""
        return at_densities(self.counted, densities) * self.examples

    def paths(self, masks: Masks) -> float | None:
        """Number of paths of kept weights from input to output; None where it can't be counted."""
        return None

    def share(self, masks: Masks) -> float:
        """FLOPs of a step under masks over those of a dense one, in [0, 1]."""
        flops_of = self.flops(masks)
        return flops_of.scaled / flops_of.dense if flops_of.dense else 1.0  # of embeddings alone none are counted

    @cached_property
    def output(self) -> str:
        """Name of the output layer's weight: the last in the forward pass, wherever it is defined.

        If the layer that is defined last is never called as a layer, it can't be told when it runs, and it is taken.
        It has no mask where `prune.exclude` leaves it whole, so that no other layer is taken for it.
        """
        weights = self.prunable.all(self.net)
        last = ([name for name, weight in weights.items() if weight.ndim > 1] or list(weights))[-1]
        return [name for name in self.counted if name][-1] if self.counted[last] else last

    @abstractmethod
    def calibration(self, state: State, masks: Masks, init: int, order: int) -> Pruned:
        """What a compensation may look at of a trained state that is put under masks. Raises Refused if it can't."""

    def aimed(self, target: Target) -> Target:
        """A target with what scopes and structures may ask of the network."""
        return replace(target, output=self.output, channels=lambda: self.coupling, cost=self.cost)

    @property
    @abstractmethod
    def run(self) -> Run:
        """Runs a network on a few examples in all ways in which it is used; what it gives is read by others.

        Raises Refused if it is not known how it runs.
        """

    @property
    @abstractmethod
    def forward_passes(self) -> list[tuple[Run, int]]:
        """How a network is evaluated on a few examples, part by part, and how many examples each part is given."""

    @property
    @abstractmethod
    def part(self) -> str:
        """The path in a network of what runs on `example`; empty if it is all of it."""

    @property
    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """What a network is given for two examples. Raises Refused if that is not tensors."""

    @abstractmethod
    def scores(self, net: nn.Module, seed: int) -> Row:
        """Loss and metrics of a network on validation and test data; `seed` is that of all that is drawn for it."""

    @cached_property
    def coupling(self) -> Coupling:
        """The network's channels that go together. Raises Refused if they can't be found."""
        run = self.run
        with self.numerics.entered(), seeded(0):
            if names := unused(self.net, run):
                raise Refused(
                    f"channels: no operation of the examples uses {names[0]}, so that nobody knows whose channels it "
                    "reads: branches that depend on data are not followed, and what is never used must be left out"
                )
            return proven(self.net, coupled(self.net, run), _masks.dense(self.prunable(self.net)), run)

    def cost(self, budget: str, kept: Kept) -> int:
        """What the network without other channels costs, in the unit of a budget. Raises Refused as `coupling` does."""
        with self.numerics.entered(), seeded(0):
            return self._costs.of(budget, kept)

    @cached_property
    def _costs(self) -> Costs:
        return Costs(self.net, self.coupling, self.forward_passes)
