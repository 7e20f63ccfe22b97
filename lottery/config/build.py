"""Builds the objects of a cell, arm, recipe, data and analyses, from its configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from lottery.analyses.sensitivity import Sensitivity
from lottery.config.annotations import hints_of
from lottery.config.build_during import with_rule
from lottery.config.cell_config import CellConfig, steady
from lottery.config.given import given
from lottery.config.groups import PRUNING_GROUPS, TRAINING_GROUPS, channelwise, chosen
from lottery.config.identity import project_identity, recipe_identity
from lottery.config.nodes import as_yaml, in_steps, make, network, with_steps
from lottery.config.patterns import patterns
from lottery.config.projects import gives_lightning
from lottery.config.user_code import user_code
from lottery.data.examples import Data, DataError
from lottery.foundations.digests import digest_of, files
from lottery.foundations.errors import Refused
from lottery.foundations.rooms import named
from lottery.foundations.seeds import seeded
from lottery.pruning.contracts import Target, checked_schedule
from lottery.pruning.masks import density
from lottery.pruning.prunable import Prunable
from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.rounds.rewinding import keeps_trained
from lottery.rounds.stopping import sizes_of
from lottery.rounds.study import Asked, Cell, Study
from lottery.store.tickets import read
from lottery.training.lightning.data.loaders import data_module
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.module.setups import set_up
from lottery.training.lightning.project import Project
from lottery.training.lightning.trainers import bare, checked_arguments
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.recipes import Contents, Recipe

TRAINING = tuple(group for group in TRAINING_GROUPS if group not in ("model", "data"))


def build(job: CellConfig) -> Cell:
    """The cell that a configuration describes. Raises Refused for anything that can't be run as configured."""
    config = job.config
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or job.seed < 0:
        raise Refused(f"seed={as_yaml(job.seed)}: must be a whole number, 0 or more")
    recipe = build_recipe(config)
    arm = build_arm(job, recipe.data, recipe.budget.steps)
    pruning = build_pruning(config, recipe)
    if pruning.compensation and not keeps_trained(arm.weights):
        does = "lr_rewind" if isinstance(recipe, Project) else "finetune"
        raise Refused(
            f"compensation: makes up for what is pruned of trained weights, and arm={job.label} does not train those "
            f"on; arm={does} does, and null leaves it out"
        )
    if recipe.numerics.shrink != "off" and not channelwise(config):
        raise Refused(
            "numerics.shrink=auto: goes with structure=channels, which leaves channels dead; off leaves it out"
        )
    if (sizes := sizes_of(pruning.stop)) and not channelwise(config):
        name = next(iter(sizes))
        raise Refused(f"stop.{name}: counts what is left without dead channels, which structure=channels leaves behind")
    if arm.given:  # its only round; nothing is pruned for it
        pruning = replace(pruning, schedule=(Target(density(arm.given.masks), keep=1.0),))
    ruling = with_steps("arm", (job.parent.node if job.parent else config["arm"]), recipe.data.steps_per_epoch)
    arm = with_rule(arm, ruling, pruning, recipe, config)
    study = Study(job.study, recipe, pruning, identity(config, recipe))
    return Cell(study, arm, job.label, job.seed, job.digest)


def build_pruning(config: Mapping[str, Any], recipe: Recipe) -> Pruning:
    """How a configured study prunes. Raises Refused."""
    groups = (*chosen(PRUNING_GROUPS, config), "stop")
    pruning = Pruning(**{group: _made(group, config, Pruning, recipe.data) for group in groups})
    try:
        return replace(pruning, schedule=checked_schedule(pruning.schedule))
    except ValueError as error:
        raise Refused(f"schedule: {error}") from error


def build_recipe(config: Mapping[str, Any]) -> Recipe:
    """The recipe that all phases of a configured study share. Raises Refused."""
    if gives_lightning(config["model"]):
        return build_project(config)
    data = _data(config["data"])
    return ModuleRecipe(
        data=data,
        network=partial(network, config["model"]),
        prunable=Prunable(**{key: tuple(listed) for key, listed in patterns(config).items()}),
        **{group: _made(group, config, ModuleRecipe, data) for group in (*TRAINING, "hardware")},
    )


def build_project(config: Mapping[str, Any]) -> Project:
    """The recipe of a Lightning project. Raises Refused."""
    try:
        arguments = checked_arguments(config.get("trainer") or {})
    except ValueError as error:
        raise Refused(str(error)) from error
    if (better := config.get("better")) not in (None, "higher", "lower"):
        raise Refused(f"better={as_yaml(better)}: must be higher, lower or null")
    data = _project_data(config["data"], arguments)
    parts = {group: _made(group, config, Recipe, data) for group in ("budget", "numerics", "hardware")}
    try:
        return Project(
            data=data,
            network=partial(_set_up, config["model"], data),
            prunable=Prunable(**{key: tuple(listed) for key, listed in patterns(config).items()}),
            arguments=arguments,
            asked=config.get("headline"),
            better=better,
            **parts,
        )
    except ValueError as error:
        raise Refused(str(error)) from error


def _set_up(node: Mapping[str, Any], data: ProjectData) -> nn.Module:
    """A project's module, as its own `setup` and `configure_model` leave it."""
    return set_up(network(node), data.module, bare())  # type: ignore[arg-type]  # as `gives_lightning` has found


def _project_data(node: Mapping[str, Any], arguments: Mapping[str, Any]) -> ProjectData:
    """A project's data, cached as `_data` does."""
    lengths = arguments.get("accumulate_grad_batches", 1), arguments.get("limit_train_batches")
    if found := _projects.get(key := digest_of([_source(node), *lengths])):
        return found
    with seeded(0):
        made = make("data", node)
    _projects.clear()
    try:
        module = data_module(made, node.get("batch_size"))
        data = ProjectData(module, *lengths, trainer=bare())
        _ = data.digest  # reads the first batches
        return _projects.setdefault(key, data)
    except DataError as error:
        raise Refused(str(error)) from error


_projects: dict[str, ProjectData] = {}
"""Cache of the project's data built last."""


_read: dict[str, Data] = {}
"""Cache of the data sets built last, keyed by `_source`."""


def _data(node: Mapping[str, Any]) -> Data:
    """The data of a node, cached for all cells of this process: reading and hashing may take minutes."""
    if found := _read.get(_source(node)):
        return found
    data = build_data(node)
    while len(_read) > 1:  # each may fill a good part of the memory
        del _read[next(iter(_read))]
    return _read.setdefault(_source(node), data)  # asked for again, since a download changes the folder


def build_data(node: Mapping[str, Any]) -> Data:
    """The data of a node, read anew. Raises Refused."""
    with seeded(0):  # a user's data may be drawn; they are the same for every replicate
        data = make("data", node)
    if not isinstance(data, Data):
        raise Refused(f"data._target_={node['_target_']}: must give a lottery.data.examples.Data")
    return data


def _source(node: Mapping[str, Any]) -> str:
    """The cache key of a data set: a digest of everything that it is built from, without reading the data itself."""
    there: list[Any] = []
    with suppress(OSError, TypeError):  # building the data raises a better error
        there = sorted([entry.name, entry.stat().st_mtime_ns] for entry in os.scandir(node.get("root", os.devnull)))
    return digest_of([named(node), user_code([node]), files(node), there])


def _made(group: str, config: Mapping[str, Any], whole: type, data: Contents) -> Any:
    """The object that a group configures; the annotation of the field in `whole` says whether a function is wanted."""
    return make(group, with_steps(group, config[group], data.steps_per_epoch), hints_of(whole)[group])


def identity(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data for phase keys: everything that training depends on except ticket, steps and seeds."""
    if isinstance(recipe, Project):
        return project_identity(config, recipe.data.digest, recipe.budget.steps, recipe.data.free_of_workers)
    nodes = {group: with_steps(group, config[group], recipe.data.steps_per_epoch) for group in TRAINING}
    return recipe_identity({**config, **nodes}, recipe.data.digest)


def build_analyses(job: CellConfig, data: Contents) -> dict[str, Asked]:
    """The configured analyses, by name. Raises Refused for several processes, since only training supports them."""
    nodes = job.config.get("analysis") or {}
    if nodes and (devices := job.config["hardware"]["devices"]) > 1:
        raise Refused(f"hardware.devices={devices}: goes without an analysis; run it with hardware.devices=1")
    found = {}
    for name, node in nodes.items():
        analysis = make(f"analysis.{name}", with_steps(f"analysis.{name}", node, data.steps_per_epoch))
        if isinstance(analysis, Sensitivity) and job.choices.get("structure") == "n_of_m":
            raise Refused(f"analysis.{name}: goes without structure=n_of_m, which prunes all layers alike")
        found[name] = Asked(analysis, steady(node, "analysis", job.folder.parent.glob(f"seed*/{name}.jsonl")))
    return found


def build_arm(job: CellConfig, data: Contents, steps: int) -> Arm:
    """The arm and its parent, which has the same rewinding point."""
    node = {"rewind": 0, "first": 0, **job.config["arm"]}
    node = {key: value for key, value in node.items() if key not in ("parent", "content")}
    node = with_steps("arm", node, data.steps_per_epoch)
    node |= {key: in_steps(f"arm.{key}", node[key], data.steps_per_epoch) for key in ("rewind", "first")}
    for key in ("rewind", "first", "prune_at"):
        if not 0 <= (node.get(key) or 0) < steps:
            asked = as_yaml(job.config["arm"].get(key, 0))
            raise Refused(
                f"arm.{key}={asked}: must be a step from 0 to {steps - 1}, before the last (budget.steps={steps})"
            )
    if "file" in node:
        file, model = node.pop("file"), str(job.config["model"].get("_target_"))
        if not isinstance(file, str):
            raise Refused(f"arm.file={as_yaml(file)}: must be a file that `lottery ticket export` wrote")
        # what is configured here to be trained is trusted; nothing else that the file names is
        node["given"] = given(read(file), trust=(model,))
    if job.parent:
        parent = {**job.parent.node, "name": job.parent.label, "rewind": node["rewind"]}
        parent.pop("parent", None)
        node["parent"] = make("arm.parent", with_steps("arm.parent", parent, data.steps_per_epoch))
    return make("arm", node | {"name": job.label})
