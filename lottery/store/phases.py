"""The phase that a round trains, and the specification of all that its result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lottery.foundations.digests import digest, digest_of
from lottery.foundations.seeds import Streams
from lottery.rounds.round import Round
from lottery.training.phase import Phase
from lottery.training.recipes import Recipe

SCIENCE = 1  # raised whenever our own numerics change, so that older phases are not taken for newer ones


def phase_of(recipe: Recipe, seed: int, current: Round) -> Phase:
    """The phase that trains a round; its data order is the same for every arm."""
    ticket = current.ticket
    streams, which = Streams(seed), (current.index, current.copy)
    structure = {} if current.changes else recipe.structure(ticket.masks)
    return Phase(
        ticket.state,
        ticket.masks,
        current.first,
        current.last,
        order=streams.order(*which),
        noise=streams.noise(*which),
        build=streams.init,
        sparse=() if current.changes or structure else recipe.sparse_weights(ticket.masks),
        structure=structure,
        budget=current.budget,
        changes=current.changes,
    )


def specification(recipe: Recipe, identity: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """All that the result of a phase depends on; its digest is the phase's key in a store.

    `identity` is the recipe as plain data. A phase that stops early, at a waypoint of a longer one, is specified by
    the key of the longer one and the step.
    """
    budget = phase.budget or recipe.budget
    if phase.last < budget.steps:
        return passing(specification(recipe, identity, replace(phase, last=budget.steps)), phase.last)
    how: dict[str, Any] = {"sparse": list(phase.sparse)} if phase.sparse else {}
    if phase.structure:
        how["shrunk"] = True  # to what, the masks say
    if recipe.hardware.devices > 1:
        how["devices"] = recipe.hardware.devices
    if budget != recipe.budget:  # training reads only these two of a budget, whatever made it
        how["evaluate"] = budget.evaluate
        how["rates"] = digest_of([budget.factor(step) for step in range(phase.first, phase.last)])
    if changes := phase.changes:
        how["changes"] = {"density": changes.density, **changes.identity}
        if frozen := [name for name, weight in recipe.prunable(recipe.net).items() if not weight.requires_grad]:
            how["changes"]["frozen"] = frozen  # their masks changed once too
    return how | {
        "recipe": identity,
        "science": SCIENCE,
        "torch": torch.__version__,
        "device": recipe.hardware.device,
        "state": digest(phase.state),
        "masks": digest(phase.masks),
        "steps": [phase.first, phase.last],
        "seeds": {"order": phase.order, "noise": phase.noise, "build": phase.build},
    }


def passing(spec: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The specification of a phase that ends at a step which the phase of `spec` passes by, or ends at later."""
    return {"of": spec.get("of") or digest_of(spec), "step": step}
