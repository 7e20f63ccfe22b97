"""Recipes: what every phase of a study's training has in common, and what makes one phase."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lottery.data.examples import Data
from lottery.foundations.durations import Steps
from lottery.foundations.seeds import seeded
from lottery.pruning.masks import Masks
from lottery.pruning.prunable import Prunable
from lottery.training import flops, sparse
from lottery.training.hardware import Hardware
from lottery.training.learning_rates import LearningRate, constant, warmed_up
from lottery.training.modules import Module
from lottery.training.numerics import Numerics
from lottery.training.states import State

Row = dict[str, Any]
"""What one evaluation measured: `step`, `train_loss`, and loss and metrics by name after `val_` and `test_`. All are
numbers, except for metrics that are not finite, which are None."""


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


@dataclass(frozen=True)
class Recipe:
    """What every phase of a study has in common."""

    data: Data
    network: Callable[[], nn.Module]
    module: Callable[[nn.Module], Module]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    budget: Budget
    numerics: Numerics = field(default_factory=Numerics)
    hardware: Hardware = field(default_factory=Hardware)
    prunable: Prunable = field(default_factory=Prunable)
    """gives a network's prunable weights by name"""

    @cached_property
    def sample(self) -> Module:
        """A module that is not trained, for what it is made of."""
        return self.build(0)

    def build(self, seed: int) -> Module:
        """Builds the module; the same seed gives the same draws, those that a network keeps outside its state too."""
        with self.numerics.entered(), seeded(seed):
            return self.module(self.network())

    def flops(self, masks: Masks) -> flops.Flops:
        """FLOPs of one optimizer step on the whole batch under masks."""
        return flops.of_example(self._flops, masks) * self.data.batch_size

    def share(self, masks: Masks) -> float:
        """FLOPs of a step under masks over those of a dense one, in [0, 1]."""
        flops_of = self.flops(masks)
        return flops_of.scaled / flops_of.dense if flops_of.dense else 1.0  # of embeddings alone none are counted

    def sparse_weights(self, masks: Masks) -> tuple[str, ...]:
        """Names of the weights that train on their kept values alone under masks.

        With `numerics.sparse=auto` there are none on GPUs and in mixed precision, where no gain has been measured.
        """
        how, measured = self.numerics.sparse, (self.numerics.precision, self.hardware.device) == ("32", "cpu")
        if how == "off" or (how == "auto" and not measured):
            return ()
        net = self.sample.net
        names = sparse.layers(net, masks, self.optimizer(net.parameters()), everywhere=how == "on")
        return names if how == "on" or (names and self.takes_sparse) else ()

    @cached_property
    def output(self) -> str:
        """Name of the output layer's weight: the last in the forward pass, wherever it is defined.

        If the layer that is defined last is never called as a layer, it can't be told when it runs, and it is taken.
        It has no mask where `prune.exclude` leaves it whole, so that no other layer is taken for it.
        """
        weights = self.prunable.all(self.sample.net)
        last = ([name for name, weight in weights.items() if weight.ndim > 1] or list(weights))[-1]
        return [name for name in self._flops if name][-1] if self._flops[last] else last

    @cached_property
    def takes_sparse(self) -> bool:
        """Whether the network runs with sparse linear layers; one that reads their weights itself does not."""
        with self.numerics.entered(), seeded(0), closing(self.data.evaluation("train", 2)) as batches:
            module = self.build(0)
            optimizer = self.optimizer(module.net.parameters())
            try:
                sparse.try_out(module, optimizer, *next(batches), self.prunable)
            except Exception:  # a user's network may raise anything
                return False
        return True

    @cached_property
    def _flops(self) -> dict[str, float]:
        with self.numerics.entered(), seeded(0), closing(self.data.evaluation("train", 2)) as batches:
            return flops.by_weight(self.build(0), *next(batches), self.prunable.all)


@dataclass(frozen=True)
class Phase:
    """One stretch of training."""

    state: State
    masks: Masks
    first: int
    """the first step; learning rate and data order go on from there"""
    last: int
    """the step at which it ends"""
    order: int
    """seed of the data order"""
    noise: int
    """seed of everything drawn while training, such as dropout"""
    build: int = 0
    """seed that the network is built with: what it draws and keeps outside its state is then always the same"""
    sparse: tuple[str, ...] = ()
    """names of the weights that train on their kept values alone"""
    budget: Budget | None = None
    """the budget, if it is not the recipe's"""


@dataclass(frozen=True)
class Trained:
    """The result of a phase."""

    state: State
    masks: Masks
    """the masks that training ended with; a training may give others than it was given"""
    rows: list[Row]
