"""Masks in training: what holding them costs, and what changing them does at the papers' frequencies."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.speed.cells import lenet, pruned, resnet20
from experiments.speed.pace import pace
from experiments.speed.paired import cpu_seconds, turns
from experiments.speed.rows import Row, at_most
from lottery.config.build import build
from lottery.pruning.criteria import magnitude
from lottery.pruning.growth import by_gradient, cosine
from lottery.pruning.scopes import layerwise
from lottery.rounds.study import Cell
from lottery.training.changes import Changes, Gradual, Rewiring, Rule
from lottery.training.fit import fit
from lottery.training.holding import Holding
from lottery.training.phase import Phase

EVERY, HELD = 100, 200
RULES: dict[str, Rule] = {
    "RigL": Rewiring(EVERY, fraction=cosine, growth=by_gradient, in_place_of_a_step=True),
    "gradual pruning": Gradual(EVERY, criterion=magnitude, scope=layerwise),
}


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        yield at_most(
            "ResNet-20 at density 20%: holding the masks, over a step", holding(build(resnet20(folder))), 0.03, ".4f"
        )
        net = build(lenet(folder, "numerics.sparse=off"))
        for what, rule in RULES.items():
            ratios = turns(partial(training, net, rule, True), partial(training, net, rule, False), 10)
            what = f"LeNet: {what} every {EVERY} steps, a training over one whose masks stay"
            yield at_most(what, ratios, 1.02)


def holding(cell: Cell) -> list[float]:
    """Time of holding the masks over that of a whole step, one ratio a turn."""
    recipe, masks = cell.study.recipe, pruned(cell, 0.21)
    held = Holding(recipe.network(), masks, across=False)

    def hold() -> None:
        for _ in range(HELD):
            held.mask_weights()

    return turns(lambda: cpu_seconds(hold) / HELD, lambda: pace(recipe, masks, steps=12), 6)


def training(cell: Cell, rule: Rule, changing: bool, steps: int = 1000) -> float:
    """CPU seconds of a training without evaluation, from the masks that a rule begins with."""
    recipe, masks = cell.study.recipe, pruned(cell, 1.0 if rule.begins_dense else 0.21)
    changes = Changes(rule, 0.2, {}) if changing else None
    phase = Phase(recipe.network().state_dict(), masks, 0, steps, order=0, noise=0, changes=changes)
    return cpu_seconds(partial(fit, recipe, phase, evaluate=False))
