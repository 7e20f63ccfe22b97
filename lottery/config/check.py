"""Checks a cell before training, by running each of its parts once on one small batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from lottery.config.nodes import as_yaml, located
from lottery.data.examples import DataError
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, generator, seeded
from lottery.pruning import masks
from lottery.pruning.contracts import Evidence, checked, choose, score
from lottery.pruning.masks import Masks
from lottery.rounds.arms import Arm
from lottery.rounds.rewinding import Origin
from lottery.rounds.round import initial
from lottery.rounds.study import Cell
from lottery.store.ticket_checks import unfit
from lottery.training import sparse
from lottery.training.hardware import trainer_for
from lottery.training.modules import INSTEAD, Module, headline_of
from lottery.training.recipes import Recipe
from lottery.training.remade import irreproducible
from lottery.training.states import State, copied, state_of

EXAMPLES = 8
"""Examples used of the first batch: a large batch of pictures could take minutes and all memory."""

Batch = tuple[Tensor, Tensor]


class Misfit(Exception):
    """Two parts of a configuration do not fit together."""


def rehearse(cell: Cell) -> None:
    """Runs network, loss, backward pass, metrics, optimizer, criterion, scope and arm on a few examples.

    Raises Misfit naming the part that fails, and Refused if `prune` names weights that can't be pruned.
    """
    recipe, streams = cell.study.recipe, Streams(cell.seed)
    with recipe.numerics.entered(), seeded(streams.rehearsal):
        with _part("hardware"):
            trainer_for(recipe.hardware, recipe.numerics)
        module = _built(recipe)
        with _part("optimizer"):
            optimizer = recipe.optimizer(module.net.parameters())
        with _part("model"):
            start = state_of(module.net)
        with _part("data"):
            batch = _examples(recipe)
        _one_step(recipe, module, optimizer, batch)
        _measure(module, batch)
        with _part("model"):
            if lost := irreproducible(recipe, streams.init, *(part[:2] for part in _copy(batch))):
                raise Misfit(lost)
        with _part("module: its operations can't be counted"):
            recipe.flops({})
        if cell.study.pruning.schedule:
            found = _prune(cell, module, start, batch)
            if recipe.numerics.sparse == "on":  # `auto` keeps layers dense that can't be sparse
                with _part("model: can't train with sparse layers (numerics.sparse=auto or off leaves them dense)"):
                    sparse.try_out(module, optimizer, *_copy(batch), recipe.prunable, everywhere=True)
            for arm in filter(None, (cell.arm, cell.arm.parent)):
                with _part("arm"):
                    _begin(cell, arm, start, found)


def _built(recipe: Recipe) -> Module:
    with _part("model"):
        net = recipe.network()
    with _part("module"):
        module = recipe.module(net)
        if not isinstance(module, Module):
            raise Misfit(f"module: must be a lottery.training.modules.Module, not a {type(module).__name__}")
        if ours := [name for name in INSTEAD if getattr(type(module), name) is not getattr(Module, name)]:
            raise Misfit(f"module: {type(module).__name__}.{ours[0]} must not be overridden; {INSTEAD[ours[0]]}")
        if foreign := [name for name in module.state_dict() if not name.startswith("net.")]:
            raise Misfit(
                f"module: {foreign[0]} is not part of `net`, so checkpoints would not save it; register a buffer that "
                "never changes with persistent=False"
            )
    if not recipe.prunable(module.net):
        raise Misfit(f"model: {masks.nothing_to_prune(module.net)}")
    return module


def _examples(recipe: Recipe) -> Batch:
    """The first examples of the first batch, the last replaced by one of the highest class, which may not fit."""
    with closing(recipe.data.batches(0, 0, 1, (0, recipe.hardware.devices))) as batches:
        inputs, targets = (part[:EXAMPLES].clone() for part in next(batches))
    if targets.ndim == 1 and not targets.is_floating_point():
        highest = recipe.data.train.targets.argmax()[None]
        with closing(recipe.data.train.training(0, [(0, highest)])) as read:
            one, targets[-1:] = next(read)
        inputs[-1:] = recipe.data.prepare(one) if recipe.data.prepare else one
    return inputs, targets


def _one_step(recipe: Recipe, module: Module, optimizer: Optimizer, batch: Batch) -> None:
    inputs, targets = _copy(batch)
    with _part(f"model: does not take inputs of shape {list(inputs.shape)}"):
        outputs = module(inputs)
    with _part(f"module: does not take outputs {_kind(outputs)} with targets {_span(targets)}"):
        loss = module.loss(outputs, targets)
        if not isinstance(loss, Tensor):
            raise Misfit(f"module: its loss must be a tensor, not a {type(loss).__name__}")
        if loss.ndim or not loss.isfinite():
            raise Misfit(f"module: its loss on the first batch is {loss.tolist()}, not one finite number")
        loss.backward()
    wanted = {name: parameter for name, parameter in module.net.named_parameters() if parameter.requires_grad}
    idle = [name for name, parameter in wanted.items() if parameter.grad is None]
    if idle and recipe.hardware.devices > 1:
        raise Misfit(f"model: {idle[0]} does not influence the loss, as every parameter must with hardware.devices > 1")
    with _part("optimizer"):
        optimizer.step()


def _measure(module: Module, batch: Batch) -> None:
    """Evaluates one batch, because a network may return something else in evaluation mode than in training."""
    inputs, targets = _copy(batch)
    module.eval()
    with torch.inference_mode():
        with _part(f"model: does not take inputs of shape {list(inputs.shape)} in evaluation"):
            outputs = module(inputs)
        with _part(f"module: does not take outputs {_kind(outputs)} with targets {_span(targets)} in evaluation"):
            float(module.loss(outputs, targets))
            for metric in module.metrics().values():
                metric.update(outputs, targets)
                float(metric.compute())
    with _part("module"):
        headline_of(module)


def _prune(cell: Cell, module: Module, start: State, batch: Batch) -> Masks:
    """The masks for the schedule's last target, with scores from a few examples."""
    pruning, every = cell.study.pruning, masks.dense(cell.study.recipe.prunable(module.net))
    with _part("schedule"):
        last, total = pruning.schedule[-1].density, masks.kept(every)
        if round(last * total) < 1:
            raise Misfit(f"schedule: its last density, {last:g}, keeps none of the {total:,} weights")
    with _part("criterion"):
        rng = generator(Streams(cell.seed).rehearsal)
        shown = {name: tensor.clone() for name, tensor in start.items()}, masks.dense(every)
        run, loss = module.batch_outputs, module.batch_loss
        scores = score(pruning.criterion, Evidence(module.net, *shown, [_copy(batch)], run, loss, rng))
    with _part("scope"):
        for target in {target.keep: target for target in pruning.schedule}.values():
            found = choose(pruning.scope, scores, every, replace(target, output=cell.study.recipe.output))
    return found


def _begin(cell: Cell, arm: Arm, start: State, found: Masks) -> None:
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


def _fresh(cell: Cell, arm: str, start: State) -> State:
    """A new initialisation, for an arm that uses one. Raises Misfit if it hardly differs from the first."""
    fresh = initial(cell.study.recipe, Streams(cell.seed).reinit(1))
    weights = cell.study.recipe.prunable(cell.study.recipe.net)
    same = sum(int((fresh[name] == start[name]).count_nonzero()) for name in weights)
    if 2 * same > sum(weight.numel() for weight in weights.values()):
        raise Misfit(f"arm: {arm} needs a new initialisation, but the model draws the same weights for every seed")
    return fresh


def _copy(batch: Batch) -> Batch:
    """A copy of a batch, so that in-place changes by one part do not reach the next."""
    return batch[0].clone(), batch[1].clone()


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


def _kind(outputs: object) -> str:
    """
    >>> _kind(torch.zeros(8, 10)), _kind((torch.zeros(8, 10), None))
    ('of shape [8, 10]', 'of type tuple')
    """
    return f"of shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"of type {type(outputs).__name__}"


def check(cell: Cell) -> None:
    """Checks a cell with one batch before anything is trained. Raises Refused for the part that does not fit."""
    try:
        rehearse(cell)
        if ticket := cell.arm.given:
            recipe = cell.study.recipe
            fitting(cell.label, unfit(ticket.start, ticket.masks, recipe.net, recipe.prunable))
    except DataError as error:
        raise Refused(str(error)) from error
    except Misfit as error:
        group = str(error).partition(":")[0]
        involved = {"model": ["model"], "module": ["model", "module"]}.get(group, [])
        given = [
            (g, key, value) for g in involved for key, value in cell.study.identity[g].items() if key != "_target_"
        ]
        settings = ", ".join(f"{g}.{key}={as_yaml(value)}" for g, key, value in given)
        raise Refused(f"{error}{f' (with {settings})' if settings else ''}") from error


def note(cell: Cell, noted: Set[str]) -> set[str]:
    """Prints once per study which large weights are never pruned; returns the study's name, to add to `noted`."""
    recipe = cell.study.recipe
    if cell.study.name not in noted and (left := recipe.prunable.left_whole(recipe.net)):
        print(f"{cell.study.name}: {left}", flush=True)
    return {cell.study.name}


def fitting(ticket: object, misfits: Sequence[str]) -> None:
    """Raises Refused with the `misfits` between a ticket and a network, if there are any."""
    if misfits:
        more = f"; and {len(misfits) - 8} more" if len(misfits) > 8 else ""
        raise Refused(f"{ticket}: does not fit the network: {'; '.join(misfits[:8])}{more}")
