"""The contract of a configured part, beyond what is refused before training: that it is a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise

import torch

from lottery.config.build import build_data
from lottery.config.cell_config import CellConfig
from lottery.config.nodes import make
from lottery.data.examples import Data
from lottery.foundations.seeds import Streams, generator
from lottery.pruning.contract_checks import criterion_faults, schedule_faults, scope_faults
from lottery.pruning.contracts import Criterion, Target
from lottery.pruning.masks import Masks
from lottery.rounds.rewinding import Origin, begun
from lottery.rounds.round import dense_ticket, initial
from lottery.rounds.study import Cell
from lottery.training.changes import Gradual, planned
from lottery.training.states import copied


def faults(group: str, config: CellConfig, cell: Cell) -> Iterator[str]:
    """How the chosen option of a group breaks its contract, as sentences; none if it keeps it or has no more of one."""
    if group == "criterion":
        yield from scoring_faults(cell, cell.study.pruning.criterion)
    elif group in ("scope", "structure"):
        masks = dense_ticket(cell.study.recipe, cell.seed).masks
        targets = map(cell.study.recipe.aimed, cell.study.pruning.schedule)
        yield from scope_faults(cell.study.pruning.structured, masks, targets)
    elif group == "schedule":
        yield from schedule_faults(partial(make, "schedule", config.config["schedule"]))
    elif group == "arm":
        yield from arm_faults(cell)
        yield from rule_faults(cell)
    elif group == "data" and isinstance(cell.study.recipe.data, Data):
        yield from data_faults(cell.study.recipe.data, config)


def scoring_faults(cell: Cell, criterion: Criterion) -> Iterator[str]:
    """How a criterion breaks its contract on the dense network at initialisation."""
    recipe, streams, ticket = cell.study.recipe, Streams(cell.seed), dense_ticket(cell.study.recipe, cell.seed)
    rng = generator(streams.score(1))
    with recipe.numerics.entered():
        asked = ticket.state, ticket.state, ticket.masks, streams.init, streams.scoring(1), rng
        yield from criterion_faults(criterion, recipe.evidence(*asked))


def rule_faults(cell: Cell) -> Iterator[str]:
    """How the parts of the rule break theirs by which an arm's masks change while it trains, with the part's key."""
    recipe, rule, pruning = cell.study.recipe, cell.arm.during, cell.study.pruning
    if not rule or not pruning.schedule:
        return
    of = cell.arm.length(recipe.budget, 1.0).steps
    steps = [step for step in rule.steps(of) if step >= cell.arm.first]
    criterion = getattr(rule, "criterion", None)
    if criterion and criterion is not pruning.criterion:  # which has its own line
        yield from (f"during.criterion: {fault}" for fault in scoring_faults(cell, criterion))
    values, again = (planned(rule, steps, of, pruning.schedule[-1].density) for _ in range(2))
    if values != again:
        part = "curve" if isinstance(rule, Gradual) else "fraction"
        yield f"during.{part}: gives other values when it is asked again"
    if not values or not (scope := getattr(rule, "scope", None)):
        return
    if isinstance(rule, Gradual):
        ways = [Target(one, min(1.0, one / before), recipe.output) for before, one in pairwise([1.0, *values[:3]])]
    else:  # what is dropped grows again
        ways = [Target(1 - max(values), 1 - max(values), recipe.output)]
    faults = scope_faults(scope, dense_ticket(recipe, cell.seed).masks, ways)
    yield from (f"during.scope: {fault}" for fault in faults)


def arm_faults(cell: Cell) -> Iterator[str]:
    """How an arm breaks its contract: the same round twice must begin with the same weights and masks."""
    arm, recipe, streams = cell.arm, cell.study.recipe, Streams(cell.seed)
    state = initial(recipe, streams.init)
    rng = generator(0)
    found: Masks = {
        name: torch.rand(state[name].shape, generator=rng) < 0.5 for name in recipe.prunable(recipe.net)
    }  # fmt: skip
    seen = []
    for _ in range(2):
        masks = arm.masks(copied(found), generator(streams.masks(arm.name, 1)))
        origin = Origin(copied(state), partial(copied, state), partial(initial, recipe, streams.reinit(1)), masks)
        seen.append((masks, begun(arm.weights, origin, recipe.net)))
    for what, one, other in zip(("masks", "weights"), *seen, strict=True):
        if differing := [name for name in one if not torch.equal(one[name], other[name])]:
            yield f"gives {differing[0]} other {what} when it is asked again; it must draw from what it is handed alone"


def data_faults(data: Data, config: CellConfig) -> Iterator[str]:
    """How a data set breaks its contract: read twice it is the same, and a batch is a function of seed and step."""
    if build_data(config.config["data"]).digest != data.digest:
        yield "holds other data when it is built again; it must draw from a generator of its own"
    last = min(3, data.steps_per_epoch)

    def read(first: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        with closing(data.batches(5, first, last)) as batches:
            return list(batches)

    whole, again, rest = read(0), read(0), read(last - 1)
    for batches, when in ((again, "read again"), (whole[: last - 1] + rest, "begun in the middle of an epoch")):
        if any(
            not torch.equal(a, b)
            for one, other in zip(whole, batches, strict=True)
            for a, b in zip(one, other, strict=True)
        ):
            yield f"gives other batches when {when}"
