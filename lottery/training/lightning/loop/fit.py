"""Training of one phase of a project, from a state, under masks, from one step to another, by Lightning's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytorch_lightning as pl

from lottery.foundations.errors import Refused, Said
from lottery.foundations.seeds import seeded
from lottery.training import ranks
from lottery.training.exits import interrupts
from lottery.training.lightning.data.curricula import as_it_was
from lottery.training.lightning.data.reading import each_of
from lottery.training.lightning.failures import explained
from lottery.training.lightning.loop.checkpoints import InMemory
from lottery.training.lightning.loop.guide import validation_seed
from lottery.training.lightning.loop.masked import Masked
from lottery.training.lightning.loop.position import checkpoint_at, step_of
from lottery.training.lightning.loop.together import Together
from lottery.training.lightning.loop.vigil import Vigil
from lottery.training.lightning.project import Project
from lottery.training.lightning.trainers import quiet
from lottery.training.loop import Keeper
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Row
from lottery.training.states import State, state_of


class EndedEarly(Said):
    """A project's own code ended its training before the budget was used up."""


def fit_project(
    recipe: Project,
    phase: Phase,
    keeper: Keeper | None,
    waypoints: Iterable[int],
    watch: Callable[[int, Row | None], None],
    evaluate: bool,
) -> Trained:
    """Trains a phase of a project, as `training.fit` describes.

    Without `evaluate` nothing is tested; it still validates, since schedulers may look at what that logs.

    Raises Diverged if the loss is no longer finite, EndedEarly if the project itself stops.
    """
    budget, share = phase.budget or recipe.budget, ranks.share()
    with recipe.numerics.entered():
        module = recipe.loaded(phase.state, phase.build)
        loader = recipe.data.training(phase.order, share)
        loaders = each_of(loader)

        def measure(state: State, parts: Iterable[str], step: int) -> Row:
            if not evaluate:
                return {}
            return recipe.measured(state, parts, validation_seed(phase, step), phase.build)

        memory = InMemory(checkpoint_at(phase.state))
        if phase.first and not memory.checkpoint:
            raise Refused(
                f"arm.first={phase.first}: its weights come without where training stood at that step, as a rewinding "
                "has it, and a LightningModule needs that"
            )
        masked = Masked(phase, recipe, found := ranks.agree(keeper.load() if keeper else None))
        guide = Vigil(
            phase, budget.steps, loaders, memory, masked, measure, keeper, waypoints, watch,
            recipe.hardware.checkpoint_seconds, recipe.logged["val"].names if share[0] == 0 else {},
        )  # fmt: skip
        if found:
            guide.resume(found[1], found[0])
        callbacks: list[pl.Callback] = [guide, masked]
        if recipe.hardware.devices > 1:
            callbacks.insert(0, Together(loaders, recipe.hardware.devices))
        trainer = recipe.trainer_for(callbacks=callbacks, plugins=[memory], **horizon(recipe, budget.steps))
        data = recipe.data.trained_by(loader)
        with explained(), seeded(phase.noise), quiet(), data, as_it_was(loaders), interrupts():
            trainer.fit(
                module,
                datamodule=recipe.data.module,
                ckpt_path="memory" if memory.checkpoint else None,
                weights_only=True,
            )
            stopped_at = step_of(trainer)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if stopped_at < phase.last:
            raise EndedEarly(
                f"model: its training ended by itself at step {stopped_at:,} of {phase.last:,}; a callback of its, "
                "such as EarlyStopping, or its own code has stopped it: every round must train as long as the others"
            )
        guide.finish(trainer, module)
        state, changing = guide.result or state_of(module), masked.changing
        return Trained(state, changing.holding.masks, guide.rows, changed=changing.changed)


def horizon(recipe: Project, steps: int) -> dict[str, int]:
    """The Trainer's arguments for a whole training, which schedulers look at: a phase may end earlier.

    Whole epochs are given as such, as a user would, so that a schedule over epochs has its length.
    """
    epochs, rest = divmod(steps, recipe.data.steps_per_epoch)
    if rest and recipe.automatic:
        return {"max_steps": steps, "max_epochs": -1}
    return {"max_epochs": epochs + bool(rest)}
