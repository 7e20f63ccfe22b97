"""Pruning: from a trained round to the masks of the next, and when enough is pruned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from lottery import masks as _masks
from lottery.criteria import Criterion, Evidence, score
from lottery.data.examples import Data
from lottery.early_bird import Settled, distance
from lottery.masks import Masks
from lottery.modules import headline_of
from lottery.recipes import Recipe
from lottery.rewinding import State
from lottery.rounds import Round
from lottery.schedules import Schedule
from lottery.scopes import Scope, Target, choose
from lottery.seeds import Streams, generator, seeded
from lottery.stopping import Stop


@dataclass(frozen=True)
class Pruning:
    """How a study prunes: what matters, where it competes, how much goes in each round, when it is enough."""

    criterion: Criterion
    scope: Scope
    schedule: Schedule
    stop: Stop = field(default_factory=Stop)


def prune(
    recipe: Recipe, pruning: Pruning, found: Round, masks: Masks, start: State, target: Target, seed: int
) -> Masks:
    """The next masks: the criterion scores a round's trained network, the scope chooses among the living.

    Gradients are those of 32-bit floats at every `numerics.precision`, which is of training and evaluation alone.
    """
    device, streams, index = recipe.hardware.device, Streams(seed), found.index + 1
    module = recipe.build(streams.init)
    module.net.load_state_dict(found.trained.state)
    module.eval().to(device)
    evidence = Evidence(
        net=module.net,
        # copies: what a criterion does to them in place must not reach the next round
        start={name: tensor.to(device, copy=True) for name, tensor in start.items()},
        masks={name: mask.to(device, copy=True) for name, mask in masks.items()},
        batches=ScoringBatches(recipe.data, streams.scoring(index), device),
        loss=module.loss,
        rng=generator(streams.score(index)),
    )
    with recipe.numerics.entered(), seeded(streams.score(index)):
        scores = score(pruning.criterion, evidence)
        return choose(pruning.scope, scores, masks, replace(target, output=recipe.output))


@dataclass(frozen=True)
class ScoringBatches:
    """One epoch of training batches for criteria, the same at every iteration."""

    data: Data
    order: int
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.data.to(self.device).batches(self.order, 0, self.data.steps_per_epoch)


def settled(
    recipe: Recipe, pruning: Pruning, when: Settled, dense: Round, start: State, target: Target, seed: int
) -> Round:
    """The dense network at the step at which its mask for a target has settled, or at the end (You et al. 2020)."""
    step = when.step(drift(recipe, pruning, when, dense, start, target, seed))
    return dense if step is None else dense.cut(step)


def drift(
    recipe: Recipe, pruning: Pruning, when: Settled, dense: Round, start: State, target: Target, seed: int
) -> list[tuple[int, float]]:
    """(step, distance of the dense network's mask to that of the look before), from the second look on."""
    steps = when.looks(dense.last)
    if steps:  # once for all of them: asked for alone, each would be trained from the beginning
        dense.train(replace(dense, until=steps[-1], passing=steps[:-1]))
    living = dense.ticket.masks
    found = ((step, prune(recipe, pruning, dense.cut(step), living, start, target, seed)) for step in steps)
    return [(step, distance(one, other)) for (_, one), (step, other) in pairwise(found)]


def stop_reason(recipe: Recipe, stop: Stop, dense: Round, current: Round) -> str | None:
    """Why a chain ends with this round; None if it goes on."""
    density, metric = _masks.density(current.ticket.masks), headline_of(recipe.sample)
    if stop.below_dense is None:  # how thin a network is can be told without training it
        return stop.reason(density, {}, {}, metric)
    return stop.reason(density, current.trained.rows[-1], dense.trained.rows[-1], metric)
