"""Training of one phase: from a state, under masks, from one step to another, with Lightning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress

import torch

from lottery.foundations.errors import Lost, describe
from lottery.foundations.seeds import seeded
from lottery.pruning.channels.removal import gathered
from lottery.pruning.channels.shrinking import aliased, shrunk
from lottery.training import ranks, sparse
from lottery.training.exits import interrupts
from lottery.training.hardware import trainer_for
from lottery.training.lightning.loop.fit import fit_project
from lottery.training.lightning.project import Project
from lottery.training.loop import Keeper, Loop
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.numerics import side_by_side_
from lottery.training.phase import Diverged, Phase, Trained
from lottery.training.recipes import Recipe, Row


def fit(
    recipe: Recipe,
    phase: Phase,
    keeper: Keeper | None = None,
    waypoints: Iterable[int] = (),
    watch: Callable[[int, Row | None], None] = lambda step, row: None,
    evaluate: bool = True,
) -> Trained:
    """Trains a phase, from its last checkpoint if the keeper has one, together with the other ranks, if any.

    `waypoints` are steps whose state and masks go to the keeper. `watch(step, row)` is called at the end of each
    chunk; `row` is None if nothing was measured there. Raises Diverged if the loss is no longer finite.
    """
    rank, count = ranks.share()
    if rank == 0:
        waypoints = list(waypoints)
        ranks.agree((phase, waypoints, evaluate))
    if isinstance(recipe, Project):
        with _in_step(rank, count):
            return fit_project(recipe, phase, keeper, waypoints, watch, evaluate)
    assert isinstance(recipe, ModuleRecipe)
    module = recipe.build(phase.build)
    if phase.structure:
        module.net = shrunk(module.net, phase.structure)
    module.net.load_state_dict(gathered(phase.state, aliased(phase.structure, module.net)))
    sparse.install(module.net, phase.masks, phase.sparse)
    if recipe.numerics.channels_last:
        side_by_side_(module.net)
    if recipe.numerics.compile:
        torch._dynamo.reset()  # what it has cached in earlier phases would change its kernels
        module.net.compile(dynamic=False)
    with recipe.numerics.entered(), seeded(phase.noise + rank):
        loop = module.loop = Loop(module, recipe, phase, keeper, waypoints, watch, evaluate)
        trainer = trainer_for(recipe.hardware, recipe.numerics)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 under PyTorch 2.14
            warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # as on every login node
            with _in_step(rank, count), closing(loop), interrupts():
                trainer.fit(module, train_dataloaders=Chunks(loop))
        if trainer.interrupted or loop.step < phase.last:
            raise KeyboardInterrupt
    return Trained(*loop.result(), loop.rows, changed=loop.changing.changed)


@contextmanager
def _in_step(rank: int, count: int) -> Iterator[None]:
    """Within the context, an error ends the cell if it leaves the other ranks behind."""
    try:
        yield
    except Exception as error:
        # every rank raises these, or none can go on; the others tell the first why they end
        if count == 1 or rank or isinstance(error, Diverged | RuntimeError | ranks.Broken):
            raise
        # The other ranks wait in a collective in the middle of a step, out of sync with the first. That holds
        # for a lost lease too: the store would go on, and this rank would enter another collective.
        why = str(error) if isinstance(error, Lost) else describe(error)
        raise ranks.Broken(f"training with {count} processes broke off: {why}") from error


def assist(recipe: Recipe) -> None:
    """Runs on all ranks but the first: trains every phase with it, until there are no more."""
    while (work := ranks.agree(None)) is not None:
        phase, waypoints, evaluate = work
        with suppress(Diverged):  # rank 0 reports it
            fit(recipe, phase, None, waypoints, evaluate=evaluate)


class Chunks:
    """The data loader that Lightning sees; it yields (first, last) of each chunk that is still to run."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.loop.prepare()
        first = self.loop.step
        while first < self.loop.phase.last:  # Lightning prefetches one chunk, so `loop.step` lags behind
            last = self.loop.chunk_end(first)
            yield first, last
            first = last
