"""Pruning: finds the masks of the next round from a trained one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from lottery.foundations.seeds import Streams, drawing
from lottery.pruning.compensation.contracts import Compensation
from lottery.pruning.contracts import Criterion, Evidence, Schedule, Scope, Scores, Structure, Target, choose, score
from lottery.pruning.masks import Masks
from lottery.pruning.structures import weights
from lottery.rounds.round import dense_ticket
from lottery.rounds.stopping import Stop
from lottery.training.flops import of_call
from lottery.training.recipes import Recipe
from lottery.training.states import State


@dataclass(frozen=True)
class Pruning:
    """A study's criterion, scope, structure, compensation, schedule and stopping conditions."""

    criterion: Criterion
    scope: Scope
    schedule: Schedule
    structure: Structure = weights
    compensation: Compensation | None = None
    """how trained weights make up for what is pruned, in arms that train them on"""
    stop: Stop = field(default_factory=Stop)

    @property
    def structured(self) -> Scope:
        """The scope, choosing among what the structure puts together."""
        return partial(self.structure, self.scope)


def scoring_flops(recipe: Recipe, pruning: Pruning, seed: int) -> float:
    """Floating-point operations of scoring the dense network once, counted. Raises Unscorable if it can't be yet."""
    ticket, streams = dense_ticket(recipe, seed), Streams(seed)
    with recipe.numerics.entered(), drawing(streams.rehearsal) as rng:
        asked = ticket.state, ticket.state, ticket.masks, streams.init, streams.scoring(1), rng
        return of_call(partial(score, pruning.criterion, recipe.evidence(*asked)))


def prune(
    recipe: Recipe,
    pruning: Pruning,
    state: State,
    living: Masks,
    start: Mapping[str, Tensor],
    target: Target,
    seed: int,
    which: tuple[int, int],
) -> Masks:
    """The next masks: the criterion scores a network, scope and structure choose among the unpruned weights.

    `which` is the round and, if several are taken to its density, the step, which draw random numbers of their own.
    Gradients are always computed in 32 bits: `numerics.precision` applies to training and evaluation only.
    """
    with _seen(recipe, state, living, start, seed, which) as evidence:
        return choose(pruning.structured, score(pruning.criterion, evidence), living, recipe.aimed(target))


def scored(
    recipe: Recipe,
    pruning: Pruning,
    state: State,
    living: Masks,
    start: Mapping[str, Tensor],
    seed: int,
    which: tuple[int, int],
) -> Scores:
    """The scores that `prune` would choose by."""
    with _seen(recipe, state, living, start, seed, which) as evidence:
        return score(pruning.criterion, evidence)


@contextmanager
def _seen(
    recipe: Recipe, state: State, living: Masks, start: Mapping[str, Tensor], seed: int, which: tuple[int, int]
) -> Iterator[Evidence]:
    """What the criterion sees of a network, within the numerics and the random numbers of its pruning."""
    streams = Streams(seed)
    with recipe.numerics.entered(), drawing(streams.score(*which)) as rng:
        yield recipe.evidence(state, start, living, streams.init, streams.scoring(*which), rng)
