"""Chains of rounds: train, score, mask, rewind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from lottery.arms import Arm
from lottery.flops import Flops
from lottery.masks import Masks
from lottery.pruning import Pruning, prune, settled, stop_reason
from lottery.recipes import Recipe
from lottery.rewinding import Origin, State
from lottery.rounds import Round, Ticket, Train, dense_round, initial
from lottery.scopes import Target, checked
from lottery.seeds import generator


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


def _ends_of(parent: Round, current: Round) -> str | None:
    return parent.ends


def _trained_state(current: Round) -> State:
    return current.trained.state
