"""Survivors: trained weights under new masks, after they have made up for what these prune."""

from __future__ import annotations

from lottery.foundations.seeds import Streams, seeded
from lottery.pruning.compensation.contracts import compensated
from lottery.pruning.masks import Masks
from lottery.rounds.prune import Pruning
from lottery.training.recipes import Recipe
from lottery.training.states import State, copied


def survivors(recipe: Recipe, pruning: Pruning, trained: State, masks: Masks, seed: int, index: int) -> State:
    """A copy of the trained state for round `index`, compensated if the study asks for that.

    Compensations look at the batches that the criterion could look at.
    """
    if pruning.compensation is None:
        return copied(trained)
    streams = Streams(seed)
    order = streams.scoring(index, 0)
    with recipe.numerics.entered(), seeded(order):
        state = compensated(pruning.compensation, recipe.calibration(trained, masks, streams.init, order))
    return {name: tensor.cpu() for name, tensor in state.items()}
