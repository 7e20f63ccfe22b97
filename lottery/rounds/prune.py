"""Pruning: finds the masks of the next round from a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from lottery.data.examples import Data
from lottery.foundations.seeds import Streams, drawing
from lottery.pruning.contracts import Criterion, Evidence, Schedule, Scope, Target, choose, score
from lottery.pruning.masks import Masks
from lottery.rounds.round import Round
from lottery.rounds.stopping import Stop
from lottery.training.recipes import Recipe
from lottery.training.states import State


@dataclass(frozen=True)
class Pruning:
    """A study's criterion, scope, schedule and stopping conditions."""

    criterion: Criterion
    scope: Scope
    schedule: Schedule
    stop: Stop = field(default_factory=Stop)


def prune(recipe: Recipe, pruning: Pruning, on: Round, living: Masks, start: State, target: Target, seed: int) -> Masks:
    """The next masks: the criterion scores a round's trained network, the scope chooses among the unpruned weights.

    Gradients are always computed in 32 bits: `numerics.precision` applies to training and evaluation only.
    """
    device, streams, index = recipe.hardware.device, Streams(seed), on.index + 1
    module = recipe.build(streams.init)
    module.net.load_state_dict(on.trained.state)
    module.eval().to(device)
    with recipe.numerics.entered(), drawing(streams.score(index)) as rng:
        evidence = Evidence(
            net=module.net,
            # copies: what a criterion does to them in place must not reach the next round
            start={name: tensor.to(device, copy=True) for name, tensor in start.items()},
            masks={name: mask.to(device, copy=True) for name, mask in living.items()},
            batches=ScoringBatches(recipe.data, streams.scoring(index), device),
            outputs=module.batch_outputs,
            objective=module.batch_loss,
            rng=rng,
        )
        scores = score(pruning.criterion, evidence)
        return choose(pruning.scope, scores, living, replace(target, output=recipe.output))


@dataclass(frozen=True)
class ScoringBatches:
    """One epoch of training batches for criteria; every iteration yields the same ones."""

    data: Data
    order: int
    device: str = "cpu"

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.data.to(self.device).batches(self.order, 0, self.data.steps_per_epoch)
