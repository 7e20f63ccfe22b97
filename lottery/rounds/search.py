"""Search: where an arm gets its masks: from its own pruning, from its parent, or from a given ticket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

from lottery.pruning.contracts import Target
from lottery.pruning.masks import Masks
from lottery.rounds.arms import Arm, Given
from lottery.rounds.early_bird import settled
from lottery.rounds.prune import Pruning, prune
from lottery.rounds.round import Ends, Round, Ticket, Train, dense_round
from lottery.rounds.stopping import stop_reason
from lottery.training.flops import Flops
from lottery.training.recipes import Recipe
from lottery.training.states import State


@dataclass(frozen=True)
class Found:
    """The masks found for a round, before its arm changes them."""

    masks: Masks
    on: Round
    """the round on whose trained network the masks were found"""
    cost: Flops
    """training FLOPs spent to find the masks"""
    ends: Ends
    """decides whether the chain ends with the round that gets these masks"""


class Search(Protocol):
    """Finds the masks of one round after another."""

    @property
    def dense(self) -> Round:
        """Round 0."""

    @property
    def start(self) -> State:
        """Weights and buffers at the rewinding point."""

    def next(self, target: Target, last: Round) -> Found:
        """The masks of the round after `last`."""


@dataclass(frozen=True)
class Own:
    """Prunes the networks that the arm itself trains."""

    recipe: Recipe
    pruning: Pruning
    arm: Arm
    seed: int
    dense: Round

    @cached_property
    def start(self) -> State:
        return rewinding_point(self.arm, self.dense)

    def next(self, target: Target, last: Round) -> Found:
        on = self.trained(target, last)
        stop = partial(stop_reason, self.recipe, self.pruning.stop, self.dense)
        # an arm that prunes early rewinds to a later step of the same training, perhaps
        whole = on if self.arm.prune_at is None else self.dense.cut(max(self.arm.prune_at, self.arm.rewind))
        return Found(self._pruned(target, last, on), on, whole.cost(self.recipe), stop)

    def trained(self, target: Target, last: Round) -> Round:
        """The round whose trained network is pruned to get the masks of the round after `last`."""
        if self.arm.early:
            return settled(self.arm.early, self.dense, partial(self._pruned, target, last))
        if self.arm.prune_at is not None:
            return self.dense.cut(self.arm.prune_at)
        return last if self.arm.iterative else self.dense

    def _pruned(self, target: Target, last: Round, on: Round) -> Masks:
        # a training may have changed the masks; a one-shot arm prunes on, without training in between
        living = on.trained.masks if on is last or self.arm.from_dense else last.ticket.masks
        if self.arm.during and self.arm.during.begins_dense:
            return living
        state = on.trained.state
        for step, towards in enumerate(self.arm.path(target)):
            which = on.index + 1, step
            living = prune(self.recipe, self.pruning, state, living, self.start, towards, self.seed, which)
            state = Ticket.of(on.trained.state, living).state
        return living


class Borrowed:
    """Takes the masks of the arm's parent, whose chain of rounds advances in step with the arm's."""

    def __init__(self, recipe: Recipe, pruning: Pruning, arm: Arm, parent: Arm, seed: int, chain: Iterator[Round]):
        self.dense = self.last = next(chain)
        self.name, self.chain = parent.name, chain
        self.own, self.parents = (Own(recipe, pruning, each, seed, self.dense) for each in (arm, parent))

    @property
    def start(self) -> State:
        return self.own.start

    def next(self, target: Target, last: Round) -> Found:
        on = self.parents.trained(target, self.last)
        self.last = next(self.chain)
        ends = partial(_ends_with, self.name, self.last)
        if self.last.changes:  # its masks are those that its training ended with
            return Found(self.last.trained.masks, self.last, self.last.cost(self.own.recipe), ends)
        return Found(self.last.ticket.masks, on, self.last.before, ends)


@dataclass(frozen=True)
class FromTicket:
    """Takes the masks of a given ticket."""

    recipe: Recipe
    pruning: Pruning
    given: Given
    dense: Round

    @property
    def start(self) -> State:
        return self.given.start

    def next(self, target: Target, last: Round) -> Found:
        stop = partial(stop_reason, self.recipe, self.pruning.stop, self.dense)
        return Found(self.given.masks, self.dense, self.given.cost, stop)


def rewinding_point(arm: Arm, dense: Round) -> State:
    """What an arm rewinds a dense training to: its beginning, or the state at `rewind`.

    Criteria compare the dense network with it, under an arm with a ticket too, whose own weights it did not begin with.
    """
    return dense.cut(arm.rewind).trained.state if arm.rewind else dense.ticket.state


def search_for(
    recipe: Recipe, pruning: Pruning, arm: Arm, seed: int, train: Train, parent: Iterator[Round] | None
) -> Search:
    """The search for an arm; `parent` is the chain of its parent's rounds, if it has one."""
    if arm.parent and parent:
        return Borrowed(recipe, pruning, arm, arm.parent, seed, parent)
    looks = arm.early.looks(recipe.budget.steps) if arm.early else ()
    dense = dense_round(recipe, seed, train, passing=(*filter(None, [arm.rewind, arm.prune_at]), *looks))
    if arm.given:
        return FromTicket(recipe, pruning, arm.given, dense)
    return Own(recipe, pruning, arm, seed, dense)


def _ends_with(parent: str, theirs: Round, current: Round) -> str | None:
    return theirs.ends and f"its parent {parent} ends here: {theirs.ends}"
