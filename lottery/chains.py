"""Chains of rounds: train, score, mask, rewind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lottery.arms import Arm
from lottery.pruning import Pruning, prune, settled, stop_reason
from lottery.recipes import Recipe
from lottery.rewinding import Origin, State
from lottery.rounds import Ends, Round, Ticket, Train, dense_round, initial
from lottery.scopes import Target, checked
from lottery.seeds import generator


def play(recipe: Recipe, pruning: Pruning, arm: Arm, seed: int, train: Train) -> Iterator[Round]:
    """Iterative magnitude pruning with rewinding, and its controls (Frankle & Carbin 2019; Frankle et al. 2020).

    Round 0 is dense. Later rounds begin with what the arm makes of the masks: its own, found on the
    network trained in the round before, those of its parent, or those of a ticket.
    """
    parent = play(recipe, pruning, arm.parent, seed, train) if arm.parent else None
    looks = arm.early.looks(recipe.budget.steps) if arm.early else ()
    dense = next(parent) if parent else dense_round(recipe, seed, train, (*filter(None, [arm.rewind]), *looks))
    yield dense
    beginning = arm.given.start if arm.given else dense.ticket.state
    start = dense.cut(arm.rewind).trained.state if arm.rewind else beginning
    ends: Ends = partial(stop_reason, recipe, pruning.stop, dense)
    last = heir = dense
    for index, target in enumerate(pruning.schedule, start=1):
        if last.ends:
            return
        if arm.given:
            by, masks, cost = dense, arm.given.masks, arm.given.cost
        elif arm.parent and parent:
            by = heir if arm.parent.iterative else dense
            heir = next(parent)
            masks, cost, ends = heir.ticket.masks, by.cost(recipe), partial(_ends_with, arm.parent.name, heir)
        else:
            by, living = last if arm.iterative else dense, last.ticket.masks
            if arm.early:  # each target of its own, as it was watched: of the dense network, where all is alive
                target, living = Target(target.density, keep=target.density), dense.ticket.masks
                by = settled(recipe, pruning, arm.early, dense, start, target, seed)
            masks, cost = prune(recipe, pruning, by, living, start, target, seed), by.cost(recipe)
        masks = checked(arm.masks(masks, generator(seed, "masks", arm.name, index)), like=masks)
        reinit = partial(initial, recipe, seed, "reinit", index)
        state = arm.weights(Origin(start, partial(_trained_state, by), reinit, masks))
        budget = arm.length(recipe.budget, recipe.share(masks))
        last = Round(index, Ticket.of(state, masks), arm.first, budget, train, before=cost, stop=ends)
        yield last


def _ends_with(parent: str, heir: Round, current: Round) -> str | None:
    return heir.ends and f"its parent {parent} ends here: {heir.ends}"


def _trained_state(current: Round) -> State:
    return current.trained.state
