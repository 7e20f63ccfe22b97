"""Checks a Lightning project before training: does once, with a few batches, everything that its cell will do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lottery.config.check_pruning import Misfit, begin, change, descend, part, pruned
from lottery.foundations.digests import digest
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, generator, seeded
from lottery.pruning import masks
from lottery.pruning.compensation.contracts import compensated
from lottery.rounds.arms import Arm
from lottery.rounds.round import initial
from lottery.rounds.study import Cell
from lottery.training.changes import Changes, Moment
from lottery.training.fit import fit
from lottery.training.lightning.data.shares import check_shares
from lottery.training.lightning.loop.guide import validation_seed
from lottery.training.lightning.module.attributes import remedy, unkept
from lottery.training.lightning.module.requirements import check_module
from lottery.training.lightning.project import Project
from lottery.training.phase import Phase
from lottery.training.states import State, position, weights

STEPS = 2
"""Optimizer steps that a project is tried with."""


def rehearse_project(cell: Cell, recipe: Project) -> None:
    """Trains a project for two steps, twice, and measures, prunes and rewinds what came of it.

    Raises Misfit naming the part that fails, Refused for a setting.
    """
    streams, few = Streams(cell.seed), _few(recipe)
    with recipe.numerics.entered(), seeded(streams.rehearsal):
        if recipe.hardware.devices > 1:
            with part("data"):
                check_shares(recipe.data, recipe.hardware.devices)
        with part("model"):
            check_module(recipe.net)
            start = initial(recipe, streams.init)
            if not (names := recipe.prunable(recipe.net)):
                raise Misfit(f"model: {masks.nothing_to_prune(recipe.net)}")
            recipe.headline  # noqa: B018  # raises Refused for one that nothing logs
        arms = [arm for arm in (cell.arm, cell.arm.parent) if arm]
        for arm in arms:
            _check_first(arm)
        every = masks.dense({name: start[name] for name in names})
        _train(few, start, every, streams, Changes(Still(), 1.0, {}) if any(arm.during for arm in arms) else None)
        if cell.study.pruning.schedule:
            descend(cell)
            with part("criterion"):
                rng = generator(streams.rehearsal)
                evidence = recipe.evidence(start, start, every, streams.init, streams.scoring(1), rng)
            found = pruned(cell, evidence)
            if compensation := cell.study.pruning.compensation:
                with part("compensation"):
                    calibration = recipe.calibration(start, found, streams.init, streams.scoring(1))
                    compensated(compensation, replace(calibration, batches=list(calibration.first(1))))
            for arm in arms:
                with part("arm"):
                    if arm.length(recipe.budget, 1.0).learning_rate is not recipe.budget.learning_rate:
                        raise Misfit(
                            f"arm: {arm.name} trains at learning rates of its own, which a LightningModule sets; "
                            "arm=lr_rewind trains by its schedule"
                        )
                    begin(cell, arm, start, found)
                change(cell, arm, evidence, found)
        with part("model: its operations can't be counted"):
            recipe.flops({})


def begins_alike(recipe: Project) -> str | None:
    """A sentence if a project's module has the same weights whatever seed it is made under; None if it has not."""
    one, other = recipe.prunable(recipe.net), recipe.prunable(recipe.build(1))
    same = sum(int((weight == other[name]).count_nonzero()) for name, weight in one.items())
    if 2 * same <= sum(weight.numel() for weight in one.values()):
        return None
    return (
        "every seed begins with the same weights, since the module seeds itself (as by seed_everything) or loads what "
        "was trained before; seed= changes the order of the data and noise alone"
    )


def _check_first(arm: Arm) -> None:
    """Raises Refused for an arm whose rounds begin at a step of which nothing says where training stood."""
    known = position(arm.given.start) if arm.given else arm.first == arm.rewind
    if arm.first and not known:
        raise Refused(
            f"arm.first={arm.first}: its weights come without where training stood at that step, as a rewinding has "
            "it, and a LightningModule needs that; arm.rewind, set to the same step, keeps it"
        )


def _few(recipe: Project) -> Project:
    """The project with a short validation and the Trainer's other arguments as they are."""
    short = {"limit_val_batches": 1, "limit_test_batches": 1}
    return replace(recipe, arguments={**recipe.arguments, **short})


class Still:
    """A rule that changes nothing, for what masks that change ask of a training besides."""

    begins_dense: ClassVar[bool] = False
    in_place_of_a_step: ClassVar[bool] = False

    def steps(self, of: int) -> list[int]:
        return []

    def masks(self, moment: Moment) -> masks.Masks:
        raise AssertionError("has no steps")


def _train(recipe: Project, start: State, every: masks.Masks, streams: Streams, changes: Changes | None) -> None:
    """Two steps, twice, then resumed: equal if all is seeded and kept; a new module must then measure alike."""
    steps = min(STEPS, recipe.budget.steps)
    phase = Phase(
        start, every, 0, steps, order=streams.rehearsal, noise=streams.rehearsal, build=streams.init, changes=changes
    )  # fmt: skip
    seldom = (recipe.arguments.get("check_val_every_n_epoch") or 1) > 1
    validating = replace(recipe, arguments={**recipe.arguments, "check_val_every_n_epoch": 1}) if seldom else recipe
    with part("model: training"):
        ends = [fit(each, phase) for each in (validating, recipe)]
    if recipe.automatic and ends[0].rows and ends[0].rows[-1]["train_loss"] is None:
        raise Misfit(
            f"model: its training_step gives no loss for any of the first {steps} steps, so that nothing is trained; "
            "it must return one (or set self.automatic_optimization = False, and step its optimizers itself)"
        )
    one, other = (weights(end.state) for end in ends)
    if differing := [name for name in one if digest({name: one[name]}) != digest({name: other[name]})]:
        raise Misfit(
            f"model: two trainings under one seed differ in {differing[0]}: it or its data draw from a source that "
            "seed= does not reach; draw from torch, numpy.random or random, and from no generator of their own"
        )
    with part("model: training"):
        often = replace(recipe, hardware=replace(recipe.hardware, checkpoint_seconds=1e-9))
        fit(often, phase, kept := _Kept())
        again = fit(recipe, phase, _Kept(kept.saved)) if kept.saved else ends[0]
    if differing := [name for name, tensor in weights(again.state).items() if not torch.equal(tensor, one[name])]:
        raise Misfit(
            f"model: resumed after its first step it trains {differing[0]} to another value: {_outside(recipe, phase)}"
        )
    row = ends[0].rows[-1] if ends[0].rows else {}
    with part("model: validation"):
        measured = recipe.measured(ends[0].state, ["val"], validation_seed(phase, steps), phase.build)
    if unlike := [name for name, value in measured.items() if name in row and not _alike(row[name], value)]:
        raise Misfit(
            f"model: it logs {unlike[0]}={row[unlike[0]]} after {steps} steps, and {measured[unlike[0]]} in a new "
            f"module with the same state: {_outside(recipe, phase)}"
        )


def _outside(recipe: Project, phase: Phase) -> str:
    """Why a training does not go on as it was, with the attributes that may be the cause."""
    made: list[nn.Module] = []

    def network() -> nn.Module:
        made.append(recipe.network())
        return made[-1]

    fit(replace(recipe, network=network), phase)  # the first that is made is the one that trains
    found = unkept(recipe.build(phase.build), made[0])
    return f"something that training changes lies outside its state_dict, where nothing keeps it; {remedy(found)}"


class _Kept:
    """A keeper in memory, of the first checkpoint only."""

    def __init__(self, begin: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        self.begin = begin
        self.saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.begin

    def save(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        if self.saved is None and info["step"]:
            self.saved = dict(tensors), dict(info)

    def reach(self, first: int, last: int) -> None:
        pass

    def pass_by(self, step: int, state: State, masks: masks.Masks) -> None:
        pass


def _alike(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one == other
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
