"""For tests of Lightning projects: recipes of the little projects, phases, and plain Lightning to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.foundations.seeds import derive, seed_all, seeded
from lottery.pruning.masks import Masks
from lottery.rounds.round import initial
from lottery.rounds.study import Cell
from lottery.training.lightning.project import Project
from lottery.training.phase import Phase
from lottery.training.states import State
from lottery.training.states import weights as weights_of
from tests.test_projects import PROJECTS

HEADLINES = {
    "classifier": "acc", "segmenter": "dice", "language": "perplexity", "siamese": "accuracy", "forecast": "mae",
    "finetune": "acc", "gan": "score", "bert": "acc",
}  # fmt: skip
KINDS = [kind for kind in PROJECTS if kind != "bert"]
"""What needs nothing but what is installed for all tests."""
QUICK = ("forecast", "gan")
EACH = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
"""All kinds as parameters: one with automatic and one with manual optimization in every run, the others are slow."""


ADVICE = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore::UserWarning:lightning_fabric")
"""Lets Lightning advise on loaders, logging and clusters in tests that run it plainly; our warnings still fail."""


def words(kind: str, *more: str) -> list[str]:
    """The command line of a little project: two epochs, no W&B."""
    module, data, *_ = PROJECTS[kind]
    better = ["better=lower"] if kind == "gan" else []
    target = [f"model._target_=tests.projects.{kind}.{module}", f"data._target_=tests.projects.{kind}.{data}"]
    return [*target, f"headline={HEADLINES[kind]}", *better, "budget.steps=2ep", "tracking.mode=disabled", *more]


def cell_of(kind: str, *more: str) -> Cell:
    return build(cell_configs(words(kind, *more))[0])


def recipe_of(kind: str, *more: str) -> Project:
    recipe = cell_of(kind, *more).study.recipe
    assert isinstance(recipe, Project)
    return recipe


def phase_of(recipe: Project, masks: Masks | None = None, **changes: Any) -> Phase:
    """The whole training, from the initialisation."""
    state = initial(recipe, 5)
    settings: dict[str, Any] = {
        "state": state, "masks": masks or {}, "first": 0, "last": recipe.budget.steps, "order": 11, "noise": 12,
        "build": 5,
    }  # fmt: skip
    return Phase(**{**settings, **changes})


def some_masks(recipe: Project, share: float = 0.3) -> Masks:
    """Random masks of all prunable weights."""
    rng = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(weight.shape, generator=rng) < share for name, weight in recipe.prunable(recipe.net).items()
    }


def plainly(kind: str, recipe: Project, phase: Phase, arguments: Mapping[str, Any]) -> tuple[State, dict[str, float]]:
    """What plain Lightning trains: its own loop over the same order, with the same seeds before each batch."""
    project = import_module(f"tests.projects.{kind}")
    module_name, data_name, *_ = PROJECTS[kind]
    with seeded(phase.build):
        module = getattr(project, module_name)()
    module.load_state_dict(weights_of(phase.state))
    data = getattr(project, data_name)()
    with seeded(0):
        data.prepare_data()
        for stage in ("fit", "validate", "test"):
            data.setup(stage)
    loader = recipe.data.training(phase.order)

    class Seeds(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            loader.set_epoch(trainer.current_epoch)
            seed_all(derive(phase.noise, "epoch", trainer.current_epoch))

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            seed_all(derive(phase.noise, "batch", trainer.fit_loop.epoch_loop.total_batch_idx + 1))

    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", num_sanity_val_steps=0, callbacks=[Seeds()], **arguments,
    )  # fmt: skip
    with seeded(phase.noise):
        trainer.fit(module, train_dataloaders=loader, val_dataloaders=data.val_dataloader())
    return module.state_dict(), {name: float(value) for name, value in trainer.callback_metrics.items()}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit for bit the same."""
    names = {*one, *other}
    return sorted(n for n in names if n not in one or n not in other or not torch.equal(one[n], other[n]))


class Kept:
    """A keeper that remembers every checkpoint and waypoint, and may begin from one of them."""

    def __init__(self, begin: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        self.begin, self.saved, self.passed = begin, list[Any](), dict[int, State]()
        self.reached: list[tuple[int, int]] = []

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        # Copies, as a file gives: an optimizer goes on in the tensors that it is given.
        return self.begin and ({name: tensor.clone() for name, tensor in self.begin[0].items()}, self.begin[1])

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        import json

        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        self.saved.append((copies, json.loads(json.dumps(info))))

    def reach(self, first: int, last: int) -> None:
        self.reached.append((first, last))

    def pass_by(self, step: int, state: State, masks: Masks) -> None:
        self.passed[step] = state


def every(saved: list[Any], count: int) -> Iterator[Any]:
    """At most `count` of a list, the last always among them."""
    stride = max(1, len(saved) // count)
    yield from saved[::-stride]
