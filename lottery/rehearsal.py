"""Rehearsal: everything that a cell will do, once, with one batch, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import torch
from torch import Tensor

from lottery import masks, sparse
from lottery.calls import located
from lottery.cells import Cell
from lottery.criteria import Evidence, score
from lottery.data.examples import DataError
from lottery.hardware import trainer_for
from lottery.modules import Module, headline_of
from lottery.phases import sparse_weights
from lottery.remade import irreproducible
from lottery.rewinding import Origin, State, state_of
from lottery.rounds import initial
from lottery.scopes import checked, choose
from lottery.seeds import Streams, generator, seeded

EXAMPLES = 8
"""of the first batch: a large batch of pictures on the CPU would take minutes and all of its memory"""


class Misfit(Exception):
    """Two parts of a configuration don't go together."""


def rehearse(cell: Cell) -> None:
    """Takes a few examples through network, loss, backward pass, metrics, optimizer, criterion, scope and arm.

    Raises Misfit naming the part that fails.
    """
    recipe, pruning = cell.study.recipe, cell.study.pruning
    streams = Streams(cell.seed)
    with recipe.numerics.entered(), seeded(streams.rehearsal):
        with _part("hardware"):
            trainer_for(recipe.hardware, recipe.numerics)
        with _part("model"):
            net = recipe.network()
        with _part("module"):
            module = recipe.module(net)
        if not isinstance(module, Module):
            raise Misfit(f"module: must be a lottery.modules.Module, not a {type(module).__name__}")
        if foreign := [name for name in module.state_dict() if not name.startswith("net.")]:
            raise Misfit(f"module: {foreign[0]} lies outside its network, where no checkpoint would keep it")
        if not masks.prunable(module.net):
            raise Misfit("model: it has no linear or convolutional layer, so there is nothing to prune")
        with _part("optimizer"):
            optimizer = recipe.optimizer(module.net.parameters())
        start = state_of(module.net)
        with _part("data"), closing(recipe.data.batches(0, 0, 1, (0, recipe.hardware.devices))) as batches:
            inputs, targets = (part[:EXAMPLES].clone() for part in next(batches))
        if targets.ndim == 1 and not targets.is_floating_point():  # the highest class is what may not fit
            highest = recipe.data.train.targets.argmax()[None]
            with closing(recipe.data.train.training(0, [(0, highest)])) as read:
                one, targets[-1:] = next(read)
            inputs[-1:] = recipe.data.prepare(one) if recipe.data.prepare else one
        with _part(f"model: does not take inputs of shape {list(inputs.shape)}"):
            outputs = module(inputs)
        with _part(f"module: does not take outputs of shape {list(outputs.shape)} with targets {_span(targets)}"):
            loss = module.loss(outputs, targets)
            loss.backward()
            idle = [name for name, parameter in module.net.named_parameters() if parameter.grad is None]
            if idle and recipe.hardware.devices > 1:
                raise Misfit(f"model: {idle[0]} takes no part in the loss; several processes need that of all")
            for metric in module.metrics().values():
                metric.update(outputs.detach(), targets)
                float(metric.compute())
        with _part("module"):
            headline_of(module)
        if loss.ndim or not loss.isfinite():
            raise Misfit(f"module: its loss on the first batch is {loss.tolist()}, not one finite number")
        with _part("optimizer"):
            optimizer.step()
        with _part("model"):
            if lost := irreproducible(recipe, streams.init, inputs[:2], targets[:2]):
                raise Misfit(lost)
        with _part("module: its operations can't be counted"):
            recipe.flops({})
        module.eval()
        if pruning.schedule:
            every = masks.dense(masks.prunable(module.net))
            last, total = pruning.schedule[-1].density, masks.kept(every)
            if round(last * total) < 1:
                raise Misfit(f"schedule: its last density, {last:g}, keeps none of the {total:,} weights")
            rng = generator(streams.rehearsal)
            with _part("criterion"):
                evidence = Evidence(module.net, start, every, [(inputs, targets)], module.loss, rng)
                scores = score(pruning.criterion, evidence)
            with _part("scope"):
                for target in {target.keep: target for target in pruning.schedule}.values():
                    found = choose(pruning.scope, scores, every, target)
            if thin := sparse_weights(recipe, {name: _few(mask) for name, mask in every.items()}):
                with _part("model"):
                    sparse.install(module.net, {name: _few(every[name]) for name in thin}, thin)
                    module.loss(module(inputs), targets).backward()
                    layers = [layer for layer in module.net.modules() if isinstance(layer, sparse.SparseLinear)]
                    if any(layer.values.grad is None for layer in layers):
                        raise Misfit("model: it keeps its linear layers elsewhere besides: use numerics.sparse=off")
            for arm in filter(None, (cell.arm, cell.arm.parent)):
                with _part("arm"):
                    checked(arm.masks(found, rng), like=found)
                    arm.weights(Origin(start, lambda: start, partial(_fresh, cell, arm.name, start), found))
                    if arm.early and arm.early.every * (arm.early.window + 1) >= recipe.budget.steps:
                        raise Misfit(
                            f"arm.early.every={arm.early.every}: {arm.early.window + 1} looks do not fit into the "
                            f"{recipe.budget.steps} steps of the dense training, so that no mask could settle"
                        )
                    if arm.first >= (steps := arm.length(recipe.budget, recipe.share(found)).steps):
                        raise Misfit(f"arm.first={arm.first}: must be before the last of the {steps} steps of a round")


def _fresh(cell: Cell, arm: str, start: State) -> State:
    """Another draw of the initialisation, for an arm that asks for one. Raises Misfit if it is no other."""
    fresh = initial(cell.study.recipe, Streams(cell.seed).reinit(1))
    weights = masks.prunable(cell.study.recipe.sample.net)
    same = sum(int((fresh[name] == start[name]).count_nonzero()) for name in weights)
    if 2 * same > sum(weight.numel() for weight in weights.values()):
        raise Misfit(f"arm: {arm} wants fresh weights, but every draw of the model begins with the same ones")
    return fresh


def _few(mask: Tensor) -> Tensor:
    return (torch.arange(mask.numel()) % 50 == 0).view(mask.shape)


@contextmanager
def _part(name: str) -> Iterator[None]:
    try:
        yield
    except (Misfit, DataError):
        raise
    except Exception as error:  # a user's part may raise anything
        raise Misfit(located(name, error)) from error


def _span(targets: Tensor) -> str:
    whole = not targets.is_floating_point()
    return f"from {int(targets.min())} to {int(targets.max())}" if whole else f"of shape {list(targets.shape)}"
