"""bf16-mixed compared with 32-bit floats: speed and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from experiments.speed.bare import Bare, adam
from experiments.speed.cells import lenet
from experiments.speed.pace import pace
from experiments.speed.paired import cpu_seconds, median, turns
from experiments.speed.rows import Row, at_least
from lottery.config.build import build
from lottery.pruning import masks as _masks
from lottery.rounds.round import dense_ticket
from lottery.training.fit import fit
from lottery.training.phase import Phase
from lottery.training.recipes import Recipe

PAIRS, SEEDS, STEPS = 20, 6, 1500


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = build(lenet(folder)).study.recipe
        mixed = replace(recipe, numerics=replace(recipe.numerics, precision="bf16-mixed"))
        masks = _masks.dense(_masks.prunable(recipe.network()))
        ratios = turns(lambda: pace(recipe, masks), lambda: pace(mixed, masks), PAIRS)
        yield at_least("LeNet: steps/s of numerics.precision=bf16-mixed over 32", ratios, 1.25)
        plain, cast = Bare(recipe, {}, adam), Bare(recipe, {}, adam)
        cast.forward = lambda inputs: autocast(cast, inputs)
        ratios = turns(
            lambda: cpu_seconds(lambda: plain.train(300)), lambda: cpu_seconds(lambda: cast.train(300)), PAIRS
        )
        yield Row("a bare loop under torch.autocast over one without: what this machine makes of bf16", median(ratios))
        points = [100 * (accuracy(mixed, seed) - accuracy(recipe, seed)) for seed in range(SEEDS)]
        yield Row(f"its test accuracy after {STEPS:,} steps, less that of 32, in points", median(points, "+.2f"))


def autocast(bare: Bare, inputs: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return bare.net(inputs)


def accuracy(recipe: Recipe, seed: int) -> float:
    """Test accuracy of the dense network trained with one seed."""
    ticket = dense_ticket(recipe, seed)
    recipe = replace(recipe, budget=replace(recipe.budget, evaluate=STEPS))
    return fit(recipe, Phase(ticket.state, ticket.masks, 0, STEPS, order=seed, noise=seed)).rows[-1]["test_accuracy"]
