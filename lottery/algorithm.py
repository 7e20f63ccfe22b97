"""Chains of rounds: train, score, mask, rewind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lottery.foundations.seeds import Streams, generator, seeded
from lottery.pruning.contracts import checked
from lottery.rounds.arms import Arm
from lottery.rounds.early_bird import settled
from lottery.rounds.prune import Pruning, prune
from lottery.rounds.rewinding import Origin, as_one
from lottery.rounds.round import Ends, Round, Ticket, Train, dense_round, initial
from lottery.rounds.stopping import stop_reason
from lottery.training.recipes import Recipe
from lottery.training.states import State


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
    finder = arm.parent or arm  # whose masks they are
    last = found = dense
    for index, target in enumerate(pruning.schedule, start=1):
        if last.ends:
            return
        if arm.given:
            by, masks, cost = dense, arm.given.masks, arm.given.cost
        else:
            by, living = found if finder.iterative else dense, found.ticket.masks
            if finder.early:  # each target by itself, as its masks were watched
                target, living = target.of_dense(), dense.ticket.masks
                by = settled(recipe, pruning, finder.early, dense, start, target, seed)
            if parent:
                found = next(parent)
                masks, ends = found.ticket.masks, partial(_ends_with, finder.name, found)
            else:
                masks = prune(recipe, pruning, by, living, start, target, seed)
            cost = by.cost(recipe)
        streams = Streams(seed)
        reinit, drawn = partial(initial, recipe, streams.reinit(index)), streams.masks(arm.name, index)
        with recipe.numerics.entered(), seeded(drawn):
            masks = checked(arm.masks(masks, generator(drawn)), like=masks)
            state = as_one(arm.weights(Origin(start, partial(_trained_state, by), reinit, masks)), recipe.sample.net)
        budget = arm.length(recipe.budget, recipe.share(masks))
        last = Round(index, Ticket.of(state, masks), arm.first, budget, train, before=cost, stop=ends)
        found = found if parent else last
        yield last


def _ends_with(parent: str, found: Round, current: Round) -> str | None:
    return found.ends and f"its parent {parent} ends here: {found.ends}"


def _trained_state(current: Round) -> State:
    return current.trained.state
