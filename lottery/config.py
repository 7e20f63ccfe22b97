"""From configuration to objects: every node is a call, checked before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

from lottery.arms import Arm
from lottery.calls import as_yaml, make, network
from lottery.catalogue import options, shipped_arm
from lottery.cells import Cell, Study
from lottery.data.examples import Data, DataError
from lottery.digests import digest_of
from lottery.durations import canonical, in_steps
from lottery.errors import Refused, nearby
from lottery.identity import recipe_identity
from lottery.masks import density, left_whole
from lottery.names import Job
from lottery.pruning import Pruning
from lottery.recipes import Recipe
from lottery.rehearsal import Misfit, rehearse
from lottery.scopes import Target
from lottery.study import Asked
from lottery.tickets.files import read, unfit
from lottery.user_code import user_code


def build(job: Job) -> Cell:
    """The cell that a job describes. Raises Refused for anything that can't be run as configured."""
    config = job.config
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or job.seed < 0:
        raise Refused(f"seed={as_yaml(job.seed)}: must be a whole number, 0 or more")
    recipe = build_recipe(config)
    arm = build_arm(job, recipe.data, recipe.budget.steps)
    pruning = Pruning(
        criterion=make("criterion", config["criterion"]),
        scope=make("scope", config["scope"]),
        schedule=make("schedule", config["schedule"]),
        stop=make("stop", config["stop"]),
    )
    if arm.given:  # its only round; nothing is pruned for it
        pruning = replace(pruning, schedule=(Target(density(arm.given.masks), keep=1.0),))
    study = Study(job.study, recipe, pruning, identity(config, recipe))
    return Cell(study, arm, job.label, job.seed, job.setting)


def build_recipe(config: Mapping[str, Any]) -> Recipe:
    """What every phase of a configured study has in common. Raises Refused."""
    data = make("data", config["data"])
    if not isinstance(data, Data):
        raise Refused(f"data._target_={config['data']['_target_']}: must give a lottery.data.examples.Data")
    rate = config["optimizer"].get("lr", 0.0)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 0:
        raise Refused(f"optimizer.lr={as_yaml(rate)}: must be a number, 0 or more")
    return Recipe(
        data=data,
        network=partial(network, config["model"]),
        module=make("module", config["module"]),
        optimizer=make("optimizer", config["optimizer"]),
        budget=make("budget", _durations("budget", config["budget"], data)),
        numerics=make("numerics", config["numerics"]),
        hardware=make("hardware", config["hardware"]),
    )


def identity(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What training depends on besides its ticket, steps and seeds."""
    budget = _durations("budget", config["budget"], recipe.data)
    return recipe_identity({**config, "budget": budget}, recipe.data.digest)


def check(cell: Cell) -> None:
    """Tries everything once with one batch. Raises Refused with what doesn't fit, before anything is trained."""
    try:
        rehearse(cell)
        if ticket := cell.arm.given:
            fitting(cell.label, unfit(ticket.start, ticket.masks, cell.study.recipe.sample.net))
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
    """Says once for each study which large weights pruning leaves as they are; returns the study's name."""
    if cell.study.name not in noted and (left := left_whole(cell.study.recipe.sample.net)):
        print(f"{cell.study.name}: {left}", flush=True)
    return {cell.study.name}


def fitting(ticket: object, misfits: Sequence[str]) -> None:
    """Raises Refused with a ticket's misfits to a network, if there are any."""
    if misfits:
        more = f"; and {len(misfits) - 8} more" if len(misfits) > 8 else ""
        raise Refused(f"{ticket}: does not fit the network: {'; '.join(misfits[:8])}{more}")


def build_analyses(job: Job, data: Data) -> dict[str, Asked]:
    """The analyses asked for, by name. Raises Refused for several processes, which only training knows."""
    nodes = job.config.get("analysis") or {}
    if nodes and (devices := job.config["hardware"]["devices"]) > 1:
        raise Refused(f"hardware.devices={devices}: goes without an analysis; run it with hardware.devices=1")
    return {
        name: Asked(
            make(f"analysis.{name}", _durations(f"analysis.{name}", node, data)),
            digest_of([node, user_code([node])])[:16],
        )
        for name, node in nodes.items()
    }


def build_arm(job: Job, data: Data, steps: int) -> Arm:
    """The arm, its parent built from the parent's own yaml with the same rewinding point."""
    node = {"rewind": 0, "first": 0, **job.config["arm"]}
    parent = node.pop("parent", None)
    node = _durations("arm", node, data)
    for key in ("rewind", "first"):
        if not 0 <= node[key] < steps:
            given = as_yaml(job.config["arm"].get(key, 0))
            raise Refused(
                f"arm.{key}={given}: must be a step from 0 to {steps - 1}, before the last (budget.steps={steps})"
            )
    if "file" in node:
        file, model = node.pop("file"), str(job.config["model"].get("_target_"))
        node.pop("content", None)
        if not isinstance(file, str):
            raise Refused(f"arm.file={as_yaml(file)}: must be a file that `lottery ticket export` wrote")
        # what is configured here to be trained is trusted; nothing else that the file names is
        node["given"] = read(file).given(trust=(model,))
    if parent is None:
        return make("arm", node | {"name": job.label})
    yamls = {name: shipped_arm(name, job.sources) for name in options("arm", job.sources)}
    pruning = [name for name, arm in yamls.items() if not arm.get("parent") and "file" not in arm]
    if not isinstance(parent, str) or parent not in yamls:
        raise Refused(f"arm.parent={as_yaml(parent)}: there is no such arm; {nearby(str(parent), pruning)}")
    if parent not in pruning:
        raise Refused(f"arm.parent={parent}: it has no masks of its own; allowed: {', '.join(pruning)}")
    shipped = yamls[parent]
    shipped.pop("parent", None)
    rewind = job.config["arm"].get("rewind", 0)
    name = parent if rewind == shipped["rewind"] else f"{parent},rewind={canonical(rewind)}"
    shipped = {key: node["rewind"] if value == "${.rewind}" else value for key, value in shipped.items()}
    shipped |= {"name": name, "rewind": node["rewind"]}
    shipped = _durations("arm.parent", shipped, data)
    return make("arm", node | {"name": job.label, "parent": make("arm.parent", shipped)})


def _durations(where: str, node: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """The node with every `500it` and `2ep` in steps."""

    def steps(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: steps(f"{key}.{k}", v) for k, v in value.items()}
        if isinstance(value, list):
            return [steps(key, v) for v in value]
        if isinstance(value, str) and (value.endswith(("it", "ep")) and value[:1].isdigit()):
            try:
                return in_steps(value, data.steps_per_epoch)
            except ValueError as error:
                raise Refused(f"{key}={value}: must be a duration such as 500, 500it or 2ep") from error
        return value

    converted = {key: steps(f"{where}.{key}", value) for key, value in node.items()}
    for key in ("steps", "recipe_steps", "evaluate", "warmup", "rewind", "first"):
        if key in converted and (not isinstance(converted[key], int) or isinstance(converted[key], bool)):
            raise Refused(f"{where}.{key}={as_yaml(node[key])}: must be a duration such as 500, 500it or 2ep")
    return converted
