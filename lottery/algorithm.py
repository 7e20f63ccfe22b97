"""The main loop: train, score, mask, rewind, once per round."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lottery.foundations.seeds import Streams, drawing
from lottery.pruning.contracts import checked
from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.rounds.rewinding import Origin, begun
from lottery.rounds.round import Round, Ticket, Train, initial
from lottery.rounds.search import Found, search_for
from lottery.rounds.survivors import survivors
from lottery.training.recipes import Recipe
from lottery.training.states import State, copied


def play(recipe: Recipe, pruning: Pruning, arm: Arm, seed: int, train: Train) -> Iterator[Round]:
    """Iterative magnitude pruning with rewinding, and its controls (Frankle & Carbin 2019; Frankle et al. 2020).

    Round 0 is dense. Each later round gets masks for the schedule's next target and rewinds the weights they keep.
    Rounds are lazy: one trains when `trained` is first read, so that a chain can be planned without training.
    """
    parent = play(recipe, pruning, arm.parent, seed, train) if arm.parent else None
    search = search_for(recipe, pruning, arm, seed, train, parent)
    current = search.dense
    yield current
    for index, target in enumerate(pruning.schedule, start=1):
        if current.ends:
            return
        found = search.next(target, current)
        ticket = rewound(recipe, pruning, arm, found, search.start, seed, index)
        budget = arm.length(recipe.budget, recipe.share(ticket.masks))
        current = Round(
            index, ticket, arm.first, budget, train, changes=arm.changes(target), before=found.cost, stop=found.ends
        )
        yield current


def rewound(recipe: Recipe, pruning: Pruning, arm: Arm, found: Found, start: State, seed: int, index: int) -> Ticket:
    """The ticket that an arm makes from the masks found for round `index`.

    The arm gets copies, because changes in place must not reach its parent's rounds or later ones.
    """
    streams = Streams(seed)
    fresh = partial(initial, recipe, streams.reinit(index))

    def trained() -> State:
        return survivors(recipe, pruning, found.on.trained.state, masks, seed, index)

    with recipe.numerics.entered(), drawing(streams.masks(arm.name, index)) as rng:
        masks = checked(arm.masks(copied(found.masks), rng), like=found.masks)
        origin = Origin(copied(start), trained, fresh, copied(masks))
        return Ticket.of(begun(arm.weights, origin, recipe.net), masks)
