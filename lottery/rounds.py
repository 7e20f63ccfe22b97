"""Rounds: train, score, mask, rewind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise

import torch

from lottery import masks as _masks
from lottery.arms import Arm
from lottery.criteria import Criterion, Evidence, score
from lottery.data.examples import Data
from lottery.early_bird import Settled, distance
from lottery.flops import Flops
from lottery.masks import Masks
from lottery.recipes import Budget, Recipe, Trained
from lottery.rewinding import Origin, State, state_of
from lottery.schedules import Schedule
from lottery.scopes import Scope, Target, checked, choose
from lottery.seeds import derive, generator
from lottery.stopping import Stop


@dataclass(frozen=True)
class Pruning:
    """How a study prunes: what matters, where it competes, how much goes in each round, when it is enough."""

    criterion: Criterion
    scope: Scope
    schedule: Schedule
    stop: Stop = field(default_factory=Stop)


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


@dataclass(frozen=True)
class Round:
    """One round; it trains when `trained` is first asked for."""

    index: int
    ticket: Ticket
    first: int
    """step of the budget that it begins with"""
    budget: Budget
    train: Train
    until: int | None = None
    """the last step, if the budget is not used up"""
    passing: Sequence[int] = ()
    """steps whose states will be asked for"""
    copy: int = 0
    """counts trainings of the same ticket, each under an order and noise of its own"""
    before: Flops = field(default_factory=Flops)
    """of all training that it took to find the ticket"""
    stop: Callable[[Round], str | None] = lambda current: None

    @property
    def last(self) -> int:
        return self.until or self.budget.steps

    @cached_property
    def trained(self) -> Trained:
        return self.train(self)

    @cached_property
    def ends(self) -> str | None:
        """Why this is the last round of its chain, whatever the schedule says; None if it is not."""
        return self.stop(self)

    def cost(self, recipe: Recipe) -> Flops:
        """Of all training up to its end."""
        return self.before + recipe.flops(self.ticket.masks) * (self.last - self.first)

    def cut(self, step: int) -> Round:
        """The same training up to an earlier step."""
        return replace(self, until=step, passing=())


Train = Callable[[Round], Trained]


@dataclass(frozen=True)
class Found:
    """The masks of a coming round, and where they are from."""

    masks: Masks
    by: Round
    """whose trained network they were found on"""
    cost: Flops
    """of all training that it took"""
    ends: Callable[[Round], str | None]
    """why the round that they are for is the last of its chain; None if it is not"""


def play(recipe: Recipe, pruning: Pruning, arm: Arm, seed: int, train: Train) -> Iterator[Round]:
    """Iterative magnitude pruning with rewinding, and its controls (Frankle & Carbin 2019; Frankle et al. 2020).

    Round 0 is dense. Later rounds begin with what the arm makes of the masks: its own, found on the
    network trained in the round before, those of its parent, or those of a ticket.
    """
    parent = play(recipe, pruning, arm.parent, seed, train) if arm.parent else None
    looks = range(arm.early.every, recipe.budget.steps, arm.early.every) if arm.early else ()
    dense = next(parent) if parent else dense_round(recipe, seed, train, (*filter(None, [arm.rewind]), *looks))
    played = [dense]
    yield dense
    beginning = arm.given.start if arm.given else dense.ticket.state
    start = dense.cut(arm.rewind).trained.state if arm.rewind else beginning
    if arm.given:
        source = iter(
            [Found(arm.given.masks, dense, arm.given.cost, partial(stop_reason, recipe, pruning.stop, dense))]
        )
    elif arm.parent and parent:
        source = inherit(recipe, arm.parent, dense, parent)
    else:
        source = search(recipe, pruning, arm, start, seed, played)
    for index, found in enumerate(source, start=1):
        masks = checked(arm.masks(found.masks, generator(seed, "masks", arm.name, index)), like=found.masks)
        reinit = partial(initial, recipe, seed, "reinit", index)
        state = arm.weights(Origin(start, partial(_trained_state, found.by), reinit, masks))
        budget = arm.length(recipe.budget, recipe.share(masks))
        ticket = Ticket.of(state, masks)
        played.append(Round(index, ticket, arm.first, budget, train, before=found.cost, stop=found.ends))
        yield played[-1]


def search(
    recipe: Recipe, pruning: Pruning, arm: Arm, start: State, seed: int, played: Sequence[Round]
) -> Iterator[Found]:
    """An arm's own masks: pruned away from those of the last round played, target by target."""
    dense = played[0]
    ends = partial(stop_reason, recipe, pruning.stop, dense)
    for target in pruning.schedule:
        if played[-1].ends:
            return
        by, living = played[-1] if arm.iterative else dense, played[-1].ticket.masks
        if arm.early:  # each target of its own, as it was watched: of the dense network, where all is alive
            target, living = Target(target.density, keep=target.density), dense.ticket.masks
            by = settled(recipe, pruning, arm.early, dense, start, target, seed)
        yield Found(prune(recipe, pruning, by, living, start, target, seed), by, by.cost(recipe), ends)


def inherit(recipe: Recipe, parent: Arm, dense: Round, rounds: Iterator[Round]) -> Iterator[Found]:
    """The masks of a parent's pruned rounds, which end where the parent's do."""
    by = dense
    for heir in rounds:
        yield Found(heir.ticket.masks, by, by.cost(recipe), partial(_ends_of, heir))
        by = heir if parent.iterative else dense


def dense_round(recipe: Recipe, seed: int, train: Train, passing: Sequence[int] = ()) -> Round:
    """Round 0 of every arm: the dense network from its initialisation."""
    return Round(0, dense_ticket(recipe, seed), 0, recipe.budget, train, passing=passing)


def prune(
    recipe: Recipe, pruning: Pruning, found: Round, masks: Masks, start: State, target: Target, seed: int
) -> Masks:
    """The next masks: the criterion scores a round's trained network, the scope chooses among the living."""
    device = recipe.hardware.device
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        module = recipe.module(recipe.network())
    module.net.load_state_dict(found.trained.state)
    module.eval().to(device)
    evidence = Evidence(
        net=module.net,
        start={name: tensor.to(device) for name, tensor in start.items()},
        masks={name: mask.to(device) for name, mask in masks.items()},
        batches=ScoringBatches(recipe.data, derive(seed, "scoring", found.index + 1), device),
        loss=module.loss,
        rng=generator(seed, "score", found.index + 1),
    )
    return choose(pruning.scope, score(pruning.criterion, evidence), masks, target)


def settled(
    recipe: Recipe, pruning: Pruning, when: Settled, dense: Round, start: State, target: Target, seed: int
) -> Round:
    """The dense network at the step at which its mask for a target has settled, or at the end (You et al. 2020)."""
    looks = prefixes(dense, when.every)
    step = when.step(drift(recipe, pruning, looks, start, target, seed))
    return next((look for look in looks if look.last == step), dense)


def prefixes(dense: Round, every: int) -> list[Round]:
    """The dense training cut off after every so many steps."""
    steps = range(every, dense.last, every)
    if steps:  # once for all of them: asked for alone, each would be trained from the beginning
        dense.train(replace(dense, until=steps[-1], passing=steps[:-1]))
    return [dense.cut(step) for step in steps]


def drift(
    recipe: Recipe, pruning: Pruning, looks: Sequence[Round], start: State, target: Target, seed: int
) -> list[tuple[int, float]]:
    """(step, distance of its mask to that of the look before), from the second look on."""
    found = ((look.last, prune(recipe, pruning, look, look.ticket.masks, start, target, seed)) for look in looks)
    return [(step, distance(one, other)) for (_, one), (step, other) in pairwise(found)]


def stop_reason(recipe: Recipe, stop: Stop, dense: Round, current: Round) -> str | None:
    """Why a chain ends with this round; None if it goes on."""
    if stop == Stop():
        return None
    density, metric = _masks.density(current.ticket.masks), recipe.sample.headline
    if stop.below_dense is None:  # how thin a network is can be told without training it
        return stop.reason(density, {}, {}, metric)
    return stop.reason(density, current.trained.rows[-1], dense.trained.rows[-1], metric)


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


def _ends_of(parent: Round, current: Round) -> str | None:
    return parent.ends


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
