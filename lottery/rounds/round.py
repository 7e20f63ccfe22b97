"""A round: a ticket and its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

from lottery.foundations.seeds import Streams, seeded
from lottery.pruning import masks as _masks
from lottery.pruning.masks import Masks
from lottery.training.changes import Changes
from lottery.training.flops import Flops, with_dense_gradients
from lottery.training.phase import Trained
from lottery.training.recipes import Budget, Recipe
from lottery.training.states import State, state_of


@dataclass(frozen=True)
class Ticket:
    """What a round begins with: start weights and masks. A training may end with other masks: those of `Trained`.

    Pruned weights are zero under the names of the masks. A weight that layers share is in the state under each of its
    names, and pruned under the first alone, that of its mask; training loads them all, and then sets it to zero.
    """

    state: State
    masks: Masks

    @classmethod
    def of(cls, state: State, masks: Masks) -> Ticket:
        state = {name: tensor.clone() for name, tensor in state.items()}
        _masks.apply_(state, masks)
        return cls(state, masks)


@dataclass(frozen=True)
class Round:
    """One round; it trains lazily, when `trained` is first read."""

    index: int
    ticket: Ticket
    first: int
    """the step of the budget at which it begins"""
    budget: Budget
    train: Train
    until: int | None = None
    """the last step, if before the end of the budget"""
    passing: Sequence[int] = ()
    """steps whose states will be needed later"""
    copy: int = 0
    """number of this training among those of the same ticket; each has its own data order and noise"""
    changes: Changes | None = None
    """how masks change while it trains"""
    before: Flops = field(default_factory=Flops)
    """training FLOPs spent to find the ticket"""
    stop: Ends = lambda current: None

    @property
    def last(self) -> int:
        return self.budget.steps if self.until is None else self.until

    @cached_property
    def trained(self) -> Trained:
        if self.last == self.first:  # cut before its first step
            return Trained(self.ticket.state, self.ticket.masks, [])
        return self.train(self)

    @cached_property
    def ends(self) -> str | None:
        """Why the chain stops early with this round; None if it does not."""
        return self.stop(self)

    def cost(self, recipe: Recipe) -> Flops:
        """Of all training up to its end."""
        return self.before + self.own_cost(recipe)

    def own_cost(self, recipe: Recipe) -> Flops:
        """Of its own training, each step counted under the masks that it had."""
        changed = self.trained.changed if self.changes else []
        steps = [self.first, *(change["step"] for change in changed), self.last]
        at = [recipe.flops(self.ticket.masks), *(recipe.flops_at(change["densities"]) for change in changed)]
        whole = sum((f * (end - begin) for f, (begin, end) in zip(at, pairwise(steps), strict=True)), Flops())
        for change, before, after in zip(changed, at, at[1:], strict=False):
            if change["dense_gradients"]:  # that step ran under the masks of before
                whole = whole + with_dense_gradients(before) + after * -1
        return whole

    def cut(self, step: int) -> Round:
        """The same training up to an earlier step."""
        return replace(self, until=step, passing=())


Train = Callable[[Round], Trained]
Ends = Callable[[Round], str | None]
"""Why a chain stops early with a round; None if it does not."""


def dense_round(recipe: Recipe, seed: int, train: Train, passing: Sequence[int] = ()) -> Round:
    """Round 0 of every arm: trains the dense network from initialisation."""
    return Round(0, dense_ticket(recipe, seed), 0, recipe.budget, train, passing=passing)


def dense_ticket(recipe: Recipe, seed: int) -> Ticket:
    """The ticket of round 0 of every arm: the dense network at initialisation."""
    state = initial(recipe, Streams(seed).init)
    names = recipe.prunable(recipe.net)
    return Ticket(state, _masks.dense({name: state[name] for name in names}))


def initial(recipe: Recipe, draw: int) -> State:
    """The network's initial state for the seed `draw`, which `Streams` derives for this purpose alone."""
    with recipe.numerics.entered(), seeded(draw):
        return state_of(recipe.network())
