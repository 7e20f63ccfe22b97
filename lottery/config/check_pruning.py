"""Checks of pruning before training: tries criterion, scope, structure and arm once, with a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from lottery.config.nodes import located
from lottery.data.examples import DataError
from lottery.foundations.errors import Refused, describe
from lottery.foundations.seeds import Streams, generator
from lottery.pruning import masks
from lottery.pruning.contracts import (
    Evidence,
    KeepsNothing,
    Target,
    Unscorable,
    checked,
    checked_schedule,
    choose,
    score,
)
from lottery.pruning.masks import Masks
from lottery.rounds.arms import Arm
from lottery.rounds.prune import scored
from lottery.rounds.rewinding import Origin, keeps_trained
from lottery.rounds.round import Round, Ticket, dense_round, initial
from lottery.rounds.search import Own
from lottery.rounds.study import Cell
from lottery.store.phases import phase_of
from lottery.training.changes import Gradual, Moment, planned
from lottery.training.fit import fit
from lottery.training.phase import Trained
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
    except SystemExit as error:  # a user's own code called sys.exit
        raise Misfit(f"{name}: {describe(error)}") from error
    except Exception as error:  # a user's part may raise anything
        raise Misfit(located(name, error)) from error


def pruned(cell: Cell, evidence: Evidence) -> Masks:
    """The masks for the schedule's last target, with scores from a few examples.

    Where these have no scores, or a scope keeps nothing, training may change that. An arm that prunes the untrained
    network scores it once more, by the batches that it will see. Raises Misfit.
    """
    pruning, every = cell.study.pruning, copied(evidence.masks)
    found = every
    with part("schedule"):
        last, total = pruning.schedule[-1].density, masks.kept(every)
        if round(last * total) < 1:
            raise Misfit(f"schedule: its last density, {last:g}, keeps none of the {total:,} weights")
    with part("criterion"):
        try:
            scores, scorable = score(pruning.criterion, evidence), True
        except Unscorable:
            scores, scorable = {name: torch.zeros(mask.shape) for name, mask in every.items()}, False
    with part("scope"):
        # the first has the highest density, the last the lowest
        targets = dict.fromkeys([pruning.schedule[0], *{each.keep: each for each in pruning.schedule}.values()])
        arms = [arm for arm in (cell.arm, cell.arm.parent) if arm and not arm.parent and not arm.given]
        for arm, target in product(arms, targets):
            known = scorable
            for step in checked_schedule(arm.path(target)):
                try:
                    found = choose(pruning.structured, scores, every, cell.study.recipe.aimed(step))
                except KeepsNothing:
                    known = False
            if arm.prune_at == 0 and not (arm.during and arm.during.begins_dense):
                untrained = _of_untrained(cell, arm, target, steps=1 if known else None)
                found = found if known else untrained
    if not masks.kept(found):
        raise Misfit(
            f"scope: keeps nothing at density {last:g}; groups of a structure may be too large for so few weights"
        )
    return found


def _of_untrained(cell: Cell, arm: Arm, target: Target, steps: int | None) -> Masks:
    """The masks of the untrained network after the first `steps` on the way to a target, or all, as a round finds them.

    Raises Misfit if it finds none, or if all weights score alike, so that their order would decide.
    """
    study, dense = cell.study, dense_round(cell.study.recipe, cell.seed, _untrained)
    first = replace(arm, rewind=0, descent=lambda density: arm.path(target)[:steps])
    state, every = dense.ticket.state, dense.ticket.masks
    when = f"arm.prune_at=0: {arm.name} prunes the network before it is trained, which a later step does not"
    with _before_training(when, "criterion"):
        scores = scored(study.recipe, study.pruning, state, every, state, cell.seed, (1, 0))
        if len({float(edge) for each in scores.values() if each.numel() for edge in each.aminmax()}) == 1:
            raise Unscorable("all weights score alike, so that their order would decide which are kept")
        return Own(study.recipe, study.pruning, first, cell.seed, dense).next(target, dense).masks


@contextmanager
def _before_training(when: str, criterion: str) -> Iterator[None]:
    """Within the context, what training can't change any more is a Misfit that says which setting, and `when`."""
    try:
        yield
    except Unscorable as error:
        raise Misfit(f"{located(criterion, error)}; {when}") from error
    except KeepsNothing as error:
        raise Misfit(f"{located('scope', error)}; {when}") from error


def _untrained(current: Round) -> Trained:
    raise AssertionError("what is found before training needs none")


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


def descend(cell: Cell) -> None:
    """Asks the arm's descent, and its parent's, for the way to each of the schedule's targets. Raises Misfit."""
    for arm, target in product(filter(None, (cell.arm, cell.arm.parent)), cell.study.pruning.schedule):
        if arm.descent and arm.from_dense:
            with part("arm.descent"):
                path = checked_schedule(arm.path(target))
                ends = path[-1].density if path else 1.0
                if abs(ends - target.density) > 1e-9:
                    raise Misfit(
                        f"arm.descent: its last density is {ends:g}; it must be {target.density:g}, that of the round"
                    )


def change(cell: Cell, arm: Arm, evidence: Evidence, found: Masks) -> None:
    """Changes the masks as the first and the last change of the arm's rule do, if it has one. Raises Misfit."""
    if not (rule := arm.during):
        return
    recipe, schedule = cell.study.recipe, cell.study.pruning.schedule
    with part("arm.during"):
        of = arm.length(recipe.budget, 1.0).steps
        steps = [step for step in rule.steps(of) if step >= arm.first]
        if not steps:
            raise Misfit("arm.during: masks would never change; its first change must come before its end")
        if isinstance(rule, Gradual) and rule.initial < (highest := max(target.density for target in schedule)):
            raise ValueError(
                f"initial={rule.initial:g}: must be {highest:g} or more, the highest density of a round, since no "
                "weight comes back"
            )
        planned(rule, steps, of, schedule[-1].density)
        # any gradients do to try it out
        asked = evidence.weights.items() if rule.in_place_of_a_step else ()
        gradients = {name: weight.detach() for name, weight in asked}
        living = copied(evidence.masks if rule.begins_dense else found)
        for step, before in {steps[0]: None, **({steps[-1]: steps[-2]} if len(steps) > 1 else {})}.items():
            moment = Moment(
                step, of, schedule[-1].density, copied(living), replace(evidence, masks=copied(living)), gradients,
                recipe.output, before,
            )  # fmt: skip
            try:
                living = checked(rule.masks(moment), like=found)
            except (KeepsNothing, Unscorable):  # training may change that, if there has been some
                untrained = step == arm.first and not arm.rewind
                if untrained and (arm.prune_at == 0 or not keeps_trained(arm.weights)):
                    _first_change(cell, arm, living)


def _first_change(cell: Cell, arm: Arm, living: Masks) -> None:
    """Takes the step at which the untrained network's masks change first, as a round will. Raises Misfit."""
    recipe, pruning = cell.study.recipe, cell.study.pruning
    current = Round(
        1, Ticket.of(initial(recipe, Streams(cell.seed).init), living), arm.first, arm.length(recipe.budget, 1.0),
        _untrained, until=arm.first + 1, changes=arm.changes(pruning.schedule[-1]),
    )  # fmt: skip
    own = getattr(arm.during, "criterion", None) is not pruning.criterion
    when = (
        f"arm.during: {arm.name} changes masks at step {arm.first}, before anything is trained, which a later "
        "arm.during.begin does not"
    )
    with _before_training(when, "arm.during.criterion" if own else "criterion"):
        fit(recipe, phase_of(recipe, cell.seed, current), evaluate=False)


def _fresh(cell: Cell, arm: str, start: State) -> State:
    """A new initialisation, for an arm that uses one. Raises Misfit if it hardly differs from the first."""
    fresh = initial(cell.study.recipe, Streams(cell.seed).reinit(1))
    weights = cell.study.recipe.prunable(cell.study.recipe.net)
    same = sum(int((fresh[name] == start[name]).count_nonzero()) for name in weights)
    if 2 * same > sum(weight.numel() for weight in weights.values()):
        raise Misfit(f"arm: {arm} needs a new initialisation, but the model draws the same weights for every seed")
    return fresh
