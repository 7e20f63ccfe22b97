"""Checks a cell before training, by running each of its parts once on one small batch."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import closing

import torch
from torch import Tensor
from torch.optim import Optimizer

from lottery.config.check_project import begins_alike, rehearse_project
from lottery.config.check_pruning import Misfit, begin, change, descend, part, pruned
from lottery.config.nodes import as_yaml, located
from lottery.data.examples import DataError
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, generator, seeded
from lottery.pruning import masks
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.compensation.contracts import Pruned, compensated
from lottery.pruning.contracts import Evidence
from lottery.pruning.untouched import untouched
from lottery.rounds.study import Cell
from lottery.store.ticket_checks import unfit
from lottery.training import sparse
from lottery.training.changes import named
from lottery.training.changing import check_optimizers
from lottery.training.hardware import trainer_for
from lottery.training.lightning.project import Project
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import INSTEAD, Module, headline_of
from lottery.training.recipes import Recipe
from lottery.training.remade import irreproducible
from lottery.training.states import copied, state_of

EXAMPLES = 8
"""Examples used of the first batch: a large batch of pictures could take minutes and all memory."""

Batch = tuple[Tensor, Tensor]


def rehearse(cell: Cell) -> None:
    """Runs network, loss, backward pass, metrics, optimizer, criterion, scope and arm on a few examples.

    Raises Misfit naming the part that fails, and Refused if `prune` names weights that can't be pruned.
    """
    recipe, streams = cell.study.recipe, Streams(cell.seed)
    if isinstance(recipe, Project):
        rehearse_project(cell, recipe)
        return
    assert isinstance(recipe, ModuleRecipe)
    with recipe.numerics.entered(), seeded(streams.rehearsal):
        with part("hardware"):
            trainer_for(recipe.hardware, recipe.numerics)
        module = _built(recipe)
        with part("optimizer"):
            optimizer = recipe.optimizer(module.net.parameters())
        with part("model"):
            start = state_of(module.net)
        with part("data"):
            batch = _examples(recipe)
        _one_step(recipe, module, optimizer, batch)
        _measure(module, batch)
        with part("model"):
            if lost := irreproducible(recipe, streams.init, *(part[:2] for part in _copy(batch))):
                raise Misfit(lost)
        with part("module: its operations can't be counted"):
            recipe.flops({})
        if cell.study.pruning.schedule:
            descend(cell)
            evidence = Evidence(
                module.net, copied(start), masks.dense(recipe.prunable(module.net)), [_copy(batch)],
                module.batch_outputs, module.batch_loss, generator(streams.rehearsal),
            )  # fmt: skip
            found = pruned(cell, evidence)
            if recipe.numerics.sparse == "on":  # `auto` keeps layers dense that can't be sparse
                with part("model: can't train with sparse layers (numerics.sparse=auto or off leaves them dense)"):
                    sparse.try_out(module, optimizer, *_copy(batch), recipe.prunable, everywhere=True)
            if compensation := cell.study.pruning.compensation:
                module.eval()
                with part("compensation"):
                    compensated(compensation, Pruned(module.net, found, [_copy(batch)], lambda net, of: net(of[0])))
            with part("numerics.shrink=auto"):
                if left := recipe.structure(found):
                    shrunk(module.net, left)
            for arm in filter(None, (cell.arm, cell.arm.parent)):
                with part("arm"):
                    begin(cell, arm, start, found)
                if arm.during:
                    check_optimizers([optimizer])
                    with part("arm.during"), untouched(module.net, named(arm.during)):
                        change(cell, arm, evidence, found)


def _built(recipe: ModuleRecipe) -> Module:
    with part("model"):
        net = recipe.network()
    with part("module"):
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


def _examples(recipe: ModuleRecipe) -> Batch:
    """The first examples of the first batch, the last replaced by one of the highest class, which may not fit."""
    with closing(recipe.data.batches(0, 0, 1, (0, recipe.hardware.devices))) as batches:
        inputs, targets = (part[:EXAMPLES].clone() for part in next(batches))
    if targets.ndim == 1 and not targets.is_floating_point():
        highest = recipe.data.train.targets.argmax()[None]
        with closing(recipe.data.train.training(0, [(0, highest)])) as read:
            one, targets[-1:] = next(read)
        inputs[-1:] = recipe.data.prepare(one) if recipe.data.prepare else one
    return inputs, targets


def check_loss(recipe: Recipe) -> None:
    """Raises Refused if a network gives what its module can compute no loss of, such as a dict."""
    if not isinstance(recipe, ModuleRecipe):
        return
    try:
        with recipe.numerics.entered(), seeded(0):
            _try_loss(_built(recipe), _examples(recipe))
    except Misfit as error:
        raise Refused(str(error)) from error


def _one_step(recipe: ModuleRecipe, module: Module, optimizer: Optimizer, batch: Batch) -> None:
    _try_loss(module, batch)
    wanted = {name: parameter for name, parameter in module.net.named_parameters() if parameter.requires_grad}
    idle = [name for name, parameter in wanted.items() if parameter.grad is None]
    if idle and recipe.hardware.devices > 1:
        raise Misfit(f"model: {idle[0]} does not influence the loss, as every parameter must with hardware.devices > 1")
    with part("optimizer"):
        optimizer.step()


def _try_loss(module: Module, batch: Batch) -> None:
    inputs, targets = _copy(batch)
    with part(f"model: does not take inputs of shape {list(inputs.shape)}"):
        outputs = module(inputs)
    with part(said := f"module: does not take outputs {_kind(outputs)} with targets {_span(targets)}"):
        try:
            loss = module.loss(outputs, targets)
        except Exception as error:
            if isinstance(outputs, Tensor):
                raise
            raise Misfit(f"{located(said, error)}; the network must give one tensor of scores") from error
        if not isinstance(loss, Tensor):
            raise Misfit(f"module: its loss must be a tensor, not a {type(loss).__name__}")
        if loss.ndim or not loss.isfinite():
            raise Misfit(f"module: its loss on the first batch is {loss.tolist()}, not one finite number")
        loss.backward()


def _measure(module: Module, batch: Batch) -> None:
    """Evaluates one batch, because a network may return something else in evaluation mode than in training."""
    inputs, targets = _copy(batch)
    module.eval()
    with torch.inference_mode():
        with part(f"model: does not take inputs of shape {list(inputs.shape)} in evaluation"):
            outputs = module(inputs)
        with part(f"module: does not take outputs {_kind(outputs)} with targets {_span(targets)} in evaluation"):
            float(module.loss(outputs, targets))
            for metric in module.metrics().values():
                metric.update(outputs, targets)
                float(metric.compute())
    with part("module"):
        headline_of(module)


def _copy(batch: Batch) -> Batch:
    """A copy of a batch, so that in-place changes by one part do not reach the next."""
    return batch[0].clone(), batch[1].clone()


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
    """Prints once per study which large weights are never pruned, and whether all seeds of a project begin alike.

    Returns the study's name, to add to `noted`.
    """
    recipe = cell.study.recipe
    if cell.study.name not in noted:
        alike = begins_alike(recipe) if isinstance(recipe, Project) else None
        for said in filter(None, (recipe.prunable.left_whole(recipe.net), alike)):
            print(f"{cell.study.name}: {said}", flush=True)
    return {cell.study.name}


def fitting(ticket: object, misfits: Sequence[str]) -> None:
    """Raises Refused with the `misfits` between a ticket and a network, if there are any."""
    if misfits:
        more = f"; and {len(misfits) - 8} more" if len(misfits) > 8 else ""
        raise Refused(f"{ticket}: does not fit the network: {'; '.join(misfits[:8])}{more}")
