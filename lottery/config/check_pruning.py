"""Checks of pruning before training: tries criterion, scope, structure and arm once, with a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import torch

from lottery.config.nodes import located
from lottery.data.examples import DataError
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, generator
from lottery.pruning import masks
from lottery.pruning.contracts import Evidence, KeepsNothing, Unscorable, checked, checked_schedule, choose, score
from lottery.pruning.masks import Masks
from lottery.rounds.arms import Arm
from lottery.rounds.rewinding import Origin
from lottery.rounds.round import initial
from lottery.rounds.study import Cell
from lottery.training.changes import Moment
from lottery.training.states import State, copied


class Misfit(Exception):
    """Two parts of a configuration do not fit together."""


@contextmanager
def part(name: str) -> Iterator[None]:
    """Within the context, any error is a Misfit that names the part."""
    try:
        yield
    except (Misfit, DataError, Refused):
        raise
    except Exception as error:  # a user's part may raise anything
        raise Misfit(located(name, error)) from error


def pruned(cell: Cell, evidence: Evidence) -> Masks:
    """The masks for the schedule's last target, with scores from a few examples."""
    pruning, every = cell.study.pruning, copied(evidence.masks)
    found = every
    with part("schedule"):
        last, total = pruning.schedule[-1].density, masks.kept(every)
        if round(last * total) < 1:
            raise Misfit(f"schedule: its last density, {last:g}, keeps none of the {total:,} weights")
    with part("criterion"):
        try:
            scores = score(pruning.criterion, evidence)
        except Unscorable:  # trained weights may have scores, which nobody knows before they are trained
            scores = {name: torch.zeros(mask.shape) for name, mask in every.items()}
    with part("scope"):
        # the first has the highest density, the last the lowest
        targets = dict.fromkeys([pruning.schedule[0], *{each.keep: each for each in pruning.schedule}.values()])
        arms = [arm for arm in (cell.arm, cell.arm.parent) if arm and not arm.parent and not arm.given]
        for target in (step for arm in arms for each in targets for step in checked_schedule(arm.path(each))):
            with suppress(KeepsNothing):  # training may change that
                found = choose(pruning.structured, scores, every, cell.study.recipe.aimed(target))
    return found


def begin(cell: Cell, arm: Arm, start: State, found: Masks) -> None:
    """Makes what an arm begins a round with. Raises Misfit."""
    budget = cell.study.recipe.budget
    own = checked(arm.masks(copied(found), generator(Streams(cell.seed).rehearsal)), like=found)
    fresh = partial(_fresh, cell, arm.name, start)
    begun = arm.weights(Origin(copied(start), lambda: copied(start), fresh, copied(own)))
    if differing := sorted(begun.keys() ^ start.keys()):
        raise Misfit(f"arm: the weights of {arm.name} and the network's state differ in {differing[0]}")
    if arm.early and arm.early.every * (arm.early.window + 1) >= budget.steps:
        raise Misfit(
            f"arm.early.every={arm.early.every}: the dense training of {budget.steps} steps is too short for the "
            f"{arm.early.window + 1} checks that it takes for a mask to settle"
        )
    if arm.first >= (steps := arm.length(budget, cell.study.recipe.share(own)).steps):
        raise Misfit(f"arm.first={arm.first}: must be before the last of the {steps} steps of a round")


def change(cell: Cell, arm: Arm, evidence: Evidence, found: Masks) -> None:
    """Changes the masks once as the arm's rule does while training, if it has one. Raises Misfit."""
    if not arm.during:
        return
    recipe, density = cell.study.recipe, cell.study.pruning.schedule[-1].density
    with part("arm.during"):
        of = arm.length(recipe.budget, 1.0).steps
        steps = [step for step in arm.during.steps(of) if step >= arm.first]
        if not steps:
            raise Misfit("arm.during: masks would never change; its first change must come before its end")
        # any gradients do to try it out
        asked = evidence.weights.items() if arm.during.in_place_of_a_step else ()
        gradients = {name: weight.detach() for name, weight in asked}
        living = copied(evidence.masks if arm.during.begins_dense else found)
        moment = Moment(
            steps[0], of, density, living, replace(evidence, masks=copied(living)), gradients, recipe.output
        )
        with suppress(KeepsNothing, Unscorable):  # training may change that
            checked(arm.during.masks(moment), like=found)


def _fresh(cell: Cell, arm: str, start: State) -> State:
    """A new initialisation, for an arm that uses one. Raises Misfit if it hardly differs from the first."""
    fresh = initial(cell.study.recipe, Streams(cell.seed).reinit(1))
    weights = cell.study.recipe.prunable(cell.study.recipe.net)
    same = sum(int((fresh[name] == start[name]).count_nonzero()) for name in weights)
    if 2 * same > sum(weight.numel() for weight in weights.values()):
        raise Misfit(f"arm: {arm} needs a new initialisation, but the model draws the same weights for every seed")
    return fresh
