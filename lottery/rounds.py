"""Rounds: train, score, mask, rewind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch

from lottery import masks as _masks
from lottery.arms import Arm
from lottery.criteria import Criterion, Evidence, score
from lottery.data.examples import Data
from lottery.masks import Masks
from lottery.recipes import Recipe, Trained
from lottery.rewinding import Origin, State, state_of
from lottery.schedules import Schedule
from lottery.scopes import Scope, Target, checked, choose
from lottery.seeds import derive, generator


@dataclass(frozen=True)
class Pruning:
    """How a study prunes: what matters, where it competes, how much goes in each round."""

    criterion: Criterion
    scope: Scope
    schedule: Schedule


@dataclass(frozen=True)
class Ticket:
    """What a round begins with: start weights, pruned ones zero, and masks."""

    state: State
    masks: Masks

    @classmethod
    def of(cls, state: State, masks: Masks) -> Ticket:
        state = {name: tensor.clone() for name, tensor in state.items()}
        _masks.apply_(state, masks)
        return cls(state, masks)


class Train(Protocol):
    """Trains a ticket over the steps `first` to `last` of round `index`; `passing` asks to keep that step's state."""

    def __call__(self, ticket: Ticket, index: int, first: int, last: int, passing: int = 0) -> Trained: ...


@dataclass(frozen=True)
class Round:
    """One round; it trains when `trained` is first asked for."""

    index: int
    ticket: Ticket
    first: int
    last: int
    train: Train
    passing: int = 0

    @cached_property
    def trained(self) -> Trained:
        return self.train(self.ticket, self.index, self.first, self.last, self.passing)


def play(recipe: Recipe, pruning: Pruning, arm: Arm, seed: int, train: Train) -> Iterator[Round]:
    """Iterative magnitude pruning with rewinding, and its controls (Frankle & Carbin 2019; Frankle et al. 2020).

    Round 0 is dense. Later rounds begin with what the arm makes of the masks: its own, found on the
    network trained in the round before, or those of its parent.
    """
    parent = arm.parent and play(recipe, pruning, arm.parent, seed, train)
    dense, steps = dense_ticket(recipe, seed), recipe.budget.steps
    current = next(parent) if parent else Round(0, dense, 0, steps, train, passing=arm.rewind)
    yield current
    start = train(dense, 0, 0, arm.rewind).state if arm.rewind else dense.state
    for index, target in enumerate(pruning.schedule, start=1):
        masks = next(parent).ticket.masks if parent else prune(recipe, pruning, current, start, target, seed)
        masks = checked(arm.masks(masks, generator(seed, "masks", arm.name, index)), like=masks)
        trained = partial(_trained_state, current)
        origin = Origin(start, trained, partial(initial, recipe, seed, "reinit", index))
        current = Round(index, Ticket.of(arm.weights(origin), masks), arm.first, steps, train)
        yield current


def prune(recipe: Recipe, pruning: Pruning, current: Round, start: State, target: Target, seed: int) -> Masks:
    """The next masks: the criterion scores the trained network, the scope chooses among the living."""
    device = recipe.hardware.device
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        module = recipe.module(recipe.network())
    module.net.load_state_dict(current.trained.state)
    module.eval().to(device)
    evidence = Evidence(
        net=module.net,
        start={name: tensor.to(device) for name, tensor in start.items()},
        masks={name: mask.to(device) for name, mask in current.ticket.masks.items()},
        batches=ScoringBatches(recipe.data, derive(seed, "scoring", current.index + 1), device),
        loss=module.loss,
        rng=generator(seed, "score", current.index + 1),
    )
    return choose(pruning.scope, score(pruning.criterion, evidence), current.ticket.masks, target)


def dense_ticket(recipe: Recipe, seed: int) -> Ticket:
    """The dense network at initialisation: what round 0 of every arm begins with."""
    state = initial(recipe, seed, "init")
    names = _masks.prunable(recipe.sample.net)
    return Ticket(state, _masks.dense({name: state[name] for name in names}))


def initial(recipe: Recipe, seed: int, *purpose: str | int) -> State:
    """One draw of the network's initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *purpose))
        return state_of(recipe.network())


def _trained_state(current: Round) -> State:
    return current.trained.state


@dataclass(frozen=True)
class ScoringBatches:
    """One epoch of training batches for criteria, the same at every iteration."""

    data: Data
    order: int
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.data.to(self.device).batches(self.order, 0, self.data.steps_per_epoch)
