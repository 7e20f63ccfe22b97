"""From configuration to objects: every node is a call, checked before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import yaml
from torch import nn

from lottery.arms import Arm
from lottery.calls import as_yaml, make
from lottery.data.examples import Data, DataError
from lottery.digests import digest_of
from lottery.durations import canonical, in_steps
from lottery.identity import recipe_identity
from lottery.names import Job, Refused, find, nearby, options
from lottery.recipes import Recipe
from lottery.rehearsal import Misfit, rehearse
from lottery.rounds import Pruning
from lottery.study import Analysis, Cell, Study
from lottery.user_code import user_code


def build(job: Job) -> Cell:
    """The cell that a job describes. Raises Refused for anything that can't be run as configured."""
    config = job.config
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or job.seed < 0:
        raise Refused(f"seed={as_yaml(job.seed)}: must be a whole number, 0 or more")
    data = make("data", config["data"])
    if not isinstance(data, Data):
        raise Refused(f"data._target_={config['data']['_target_']}: must give a lottery.data.examples.Data")
    rate = config["optimizer"].get("lr", 0.0)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 0:
        raise Refused(f"optimizer.lr={as_yaml(rate)}: must be a number, 0 or more")
    budget_node = _durations("budget", config["budget"], data)
    budget = make("budget", budget_node)
    recipe = Recipe(
        data=data,
        network=partial(_network, config["model"]),
        module=make("module", config["module"]),
        optimizer=make("optimizer", config["optimizer"]),
        budget=budget,
        numerics=make("numerics", config["numerics"]),
        hardware=make("hardware", config["hardware"]),
    )
    pruning = Pruning(
        criterion=make("criterion", config["criterion"]),
        scope=make("scope", config["scope"]),
        schedule=make("schedule", config["schedule"]),
        stop=make("stop", config["stop"]),
    )
    science = recipe_identity({**config, "budget": budget_node}, data.digest)
    study = Study(job.study, recipe, pruning, science)
    arm = build_arm(job, data, budget.steps)
    nodes = [config[group] for group in ("criterion", "scope", "schedule", "arm")]
    if arm.parent:
        nodes.append(_shipped_arm(config["arm"]["parent"], job))
    setting = digest_of([nodes, user_code(nodes)])[:16]
    return Cell(study, arm, job.label, job.seed, setting)


def check(cell: Cell) -> None:
    """Tries everything once with one batch. Raises Refused with what doesn't fit, before anything is trained."""
    try:
        rehearse(cell)
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


def build_analyses(job: Job) -> dict[str, Analysis]:
    """The analyses asked for, by name. Raises Refused for several processes, which only training knows."""
    nodes = job.config.get("analysis") or {}
    if nodes and (devices := job.config["hardware"]["devices"]) > 1:
        raise Refused(f"hardware.devices={devices}: goes without an analysis; run it with hardware.devices=1")
    return {name: make(f"analysis.{name}", node) for name, node in nodes.items()}


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
    if parent is None:
        return make("arm", node | {"name": job.label})
    pruning = [name for name in options("arm", job.sources) if not _shipped_arm(name, job).get("parent")]
    if parent not in options("arm", job.sources):
        raise Refused(f"arm.parent={as_yaml(parent)}: there is no such arm; {nearby(str(parent), pruning)}")
    if parent not in pruning:
        raise Refused(f"arm.parent={parent}: it has no masks of its own; allowed: {', '.join(pruning)}")
    shipped = _shipped_arm(parent, job)
    shipped.pop("parent", None)
    rewind = job.config["arm"].get("rewind", 0)
    name = parent if rewind == shipped["rewind"] else f"{parent},rewind={canonical(rewind)}"
    shipped = {key: node["rewind"] if value == "${.rewind}" else value for key, value in shipped.items()}
    shipped |= {"name": name, "rewind": node["rewind"]}
    return make("arm", node | {"name": job.label, "parent": make("arm.parent", shipped)})


def _shipped_arm(name: str, job: Job) -> dict[str, Any]:
    return {"rewind": 0, **yaml.safe_load(find("arm", name, job.sources).read_text())}


def _network(node: Mapping[str, Any]) -> nn.Module:
    """The network, its weights drawn from torch's global generator."""
    net = make("model", {**node, "_partial_": False})
    if not isinstance(net, nn.Module):
        raise Refused(f"model._target_={node['_target_']}: must give a torch.nn.Module, not a {type(net).__name__}")
    return net


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
