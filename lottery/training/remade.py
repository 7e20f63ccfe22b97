"""Whether a network can be rebuilt from seed and state, as every phase and every resumed training rebuilds it."""

from __future__ import annotations

import math

from torch import Tensor

from lottery.foundations.digests import digest
from lottery.foundations.seeds import seeded
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Module
from lottery.training.states import state_of


def irreproducible(recipe: ModuleRecipe, draw: int, inputs: Tensor, targets: Tensor) -> str | None:
    """A sentence on what depends neither on the seed `draw` nor on the network's state; None if nothing is found.

    Two builds under one seed must be equal, and after a training step a new build with the trained state must have the
    same loss. What only shows after more steps, or in another process, is not found.
    """
    trained, other = recipe.build(draw), recipe.build(draw)
    again = state_of(other.net)
    for name, tensor in state_of(trained.net).items():
        if name not in again or digest({name: tensor}) != digest({name: again[name]}):
            return (
                f"model: it draws {name} from a source that seed= does not reach; "
                "draw from torch, numpy.random or random, and from no generator of its own"
            )
    optimizer = recipe.optimizer(trained.net.parameters())
    with seeded(draw):
        trained.loss(trained(inputs), targets).backward()
    optimizer.step()
    for training in (True, False):
        other = recipe.build(draw)
        other.net.load_state_dict(state_of(trained.net))
        losses = [_loss(module, training, draw, inputs, targets) for module in (trained, other)]
        if not math.isclose(*losses, rel_tol=1e-4, abs_tol=1e-6) and not all(map(math.isnan, losses)):
            mode = "training" if training else "evaluation"
            return (
                f"model: in {mode} its loss after one step is {losses[0]:.6g}, and {losses[1]:.6g} in a new build with "
                "the same state: something that training changes, or noise that seed= does not reach, lies outside "
                "its state_dict, where nothing keeps it; register it as a persistent buffer"
            )
    return None


def _loss(module: Module, training: bool, draw: int, inputs: Tensor, targets: Tensor) -> float:
    module.train(training)
    with seeded(draw):
        return float(module.loss(module(inputs), targets).detach())
