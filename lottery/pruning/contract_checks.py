"""Checks of criteria, scopes and schedules against all of their contract, for ours and for a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch

from lottery.foundations.seeds import noise
from lottery.pruning.contracts import (
    Criterion,
    Evidence,
    KeepsNothing,
    Schedule,
    Scope,
    Target,
    checked_schedule,
    choose,
    score,
)
from lottery.pruning.masks import Masks
from lottery.pruning.untouched import copies, of_network, unlike


def criterion_faults(criterion: Criterion, evidence: Evidence) -> Iterator[str]:
    """How a criterion breaks its contract, as sentences; none if it keeps it."""
    seen, drawn = copies(_of_network(evidence)), noise()
    begun = evidence.rng.get_state()
    try:
        first = score(criterion, evidence)
        evidence.rng.set_state(begun)
        second = score(criterion, evidence)
    except Exception as error:  # a user's code may raise anything
        yield f"{type(error).__name__}: {error}".split("\n")[0].removeprefix("ValueError: ")
        return
    if changed := unlike(seen, _of_network(evidence)):
        yield f"changes what it is given: {changed[0]}"
    if drew := [library for library, state in noise().items() if not torch.equal(state, drawn[library])]:
        yield f"draws from the global generator of {drew[0]}; evidence.rng is the one to draw from"
    if differing := [name for name, values in first.items() if not torch.equal(values, second[name])]:
        yield f"scores {differing[0]} otherwise when it is asked again"


def scope_faults(scope: Scope, masks: Masks, targets: Iterable[Target]) -> Iterator[str]:
    """How a scope breaks its contract for these targets in order, as sentences; none if it keeps it."""
    rng = torch.Generator().manual_seed(0)
    for target in targets:
        # few values, so that ties are the rule
        scores = {name: torch.randint(8, mask.shape, generator=rng).float() for name, mask in masks.items()}
        before, ranked = copies(masks), copies(scores)
        drawn = noise()
        try:
            found = choose(scope, scores, masks, target)
            again = choose(scope, copies(ranked), before, target)
        except KeepsNothing:  # no fault: these scores say nothing
            return
        except Exception as error:  # a user's code may raise anything
            yield f"{type(error).__name__}: {error}".split("\n")[0].removeprefix("ValueError: ")
            return
        if changed := [name for name in masks if not torch.equal(scores[name], ranked[name])]:
            yield f"changes the scores that it is given: {changed[0]}"
        if any(not torch.equal(state, drawn[library]) for library, state in noise().items()):
            yield "draws random numbers, which a scope must not"
        if other := [name for name in masks if not torch.equal(found[name], again[name])]:
            yield f"chooses otherwise for {other[0]} when it is asked again"
        masks = found


def schedule_faults(schedule: Callable[[], Schedule]) -> Iterator[str]:
    """How a schedule breaks its contract, as sentences; none if it keeps it."""
    try:
        first, second = checked_schedule(schedule()), checked_schedule(schedule())
    except Exception as error:  # a user's code may raise anything
        yield f"{type(error).__name__}: {error}".split("\n")[0].removeprefix("ValueError: ")
        return
    if first != second:
        yield "gives other targets when it is asked again"
    for number, (one, other) in enumerate(pairwise((Target(1.0, 1.0), *first)), start=1):
        if abs(one.density * other.keep - other.density) > 1e-6:
            yield (
                f"round {number} has density={other.density:g} and keep={other.keep:g}, but {one.density:g} x "
                f"{other.keep:g} is {one.density * other.keep:g}"
            )


def _of_network(evidence: Evidence) -> dict[str, object]:
    """All that a criterion must leave as it is, by what it is called in a sentence."""
    found = of_network(evidence.net)
    for name, tensor in (*evidence.net.named_parameters(), *evidence.net.named_buffers()):
        found[f"the gradient of {name}"] = tensor.grad
    for name, module in evidence.net.named_modules():
        found[f"whether {name or 'the network'} is in training mode"] = module.training
        found[f"the hooks of {name or 'the network'}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for what, tensors in (("mask", evidence.masks), ("start", evidence.start)):
        found |= {f"the {what} of {name}": tensor for name, tensor in tensors.items()}
    return found
