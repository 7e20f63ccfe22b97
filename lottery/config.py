"""From configuration to objects: every node is a call, checked before anything trains."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from torch import nn

from lottery.arms import Arm
from lottery.data.examples import Data, DataError
from lottery.durations import canonical, in_steps
from lottery.names import SCIENCE_GROUPS, Job, Refused, find, nearby
from lottery.rehearsal import Misfit, rehearse
from lottery.rounds import Pruning
from lottery.study import Cell, Study
from lottery.training import Recipe

_LATER = {
    "model": 0, "module": 1, "optimizer": 1, "criterion": 1, "scope": 3, "learning_rate": 2, "weights": 1, "masks": 2,
}  # fmt: skip
"""nodes that are functions, and how many arguments they are called with later"""


def build(job: Job) -> Cell:
    """The cell that a job describes. Raises Refused for anything that can't be run as configured."""
    config = job.config
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or job.seed < 0:
        raise Refused(f"seed={job.seed}: must be a whole number, 0 or more")
    data = make("data", config["data"])
    if not isinstance(data, Data):
        raise Refused(f"data._target_={config['data']['_target_']}: must give a lottery.data.examples.Data")
    budget = make("budget", _durations("budget", config["budget"], data))
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
    )
    identity = {group: _identity(config[group]) for group in ("model", "module", "optimizer", "budget", "numerics")}
    identity |= {"data": {**_identity(config["data"]), "root": None, "content": data.digest}, "code": _code(config)}
    study = Study(job.study, recipe, pruning, identity)
    return Cell(study, build_arm(job, data, budget.steps), job.label, job.seed)


def check(cell: Cell) -> None:
    """Tries everything once with one batch. Raises Refused with what doesn't fit, before anything is trained."""
    try:
        rehearse(cell)
    except Misfit as error:
        raise Refused(str(error)) from error


def build_arm(job: Job, data: Data, steps: int) -> Arm:
    """The arm, its parent built from the parent's own yaml with the same rewinding point."""
    node = dict(job.config["arm"])
    parent = node.pop("parent", None)
    node = _durations("arm", node, data)
    for key in ("rewind", "first"):
        if not 0 <= node[key] < steps:
            raise Refused(f"arm.{key}={job.config['arm'][key]}: must lie before the last step, {steps}")
    if parent is None:
        return make("arm", node | {"name": job.label})
    shipped = yaml.safe_load(find("arm", parent, job.sources).read_text())
    if shipped.pop("parent", None):
        raise Refused(f"arm.parent={parent}: it has no masks of its own; allowed is an arm that prunes, such as imp")
    rewind = job.config["arm"]["rewind"]
    name = parent if rewind == shipped["rewind"] else f"{parent},rewind={canonical(rewind)}"
    shipped = {key: node["rewind"] if value == "${.rewind}" else value for key, value in shipped.items()}
    shipped |= {"name": name, "rewind": node["rewind"]}
    return make("arm", node | {"name": job.label, "parent": make("arm.parent", shipped)})


def make(where: str, node: Mapping[str, Any]) -> Any:
    """Calls what a node names with its arguments, or prepares the call if it says `_partial_`.

    Names, types and values are checked first. Raises Refused, naming the key.
    """
    target, arguments = _target(where, node)
    arguments = {
        key: make(f"{where}.{key}", value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in arguments.items()
    }
    later = _LATER.get(where.rpartition(".")[2], 0) if node.get("_partial_") else 0
    _check_arguments(where, target, arguments, later)
    if node.get("_partial_"):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise Refused(f"{where}.{error}" if str(error).split("=")[0].isidentifier() else f"{where}: {error}") from error
    except DataError as error:
        raise Refused(str(error)) from error


def _network(node: Mapping[str, Any]) -> nn.Module:
    """The network, its weights drawn from torch's global generator."""
    return make("model", {**node, "_partial_": False})


def _target(where: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    path = node.get("_target_")
    if not isinstance(path, str):
        raise Refused(f"{where}._target_={path}: must be the import path of a function")
    try:
        return get_object(path), arguments
    except Exception as error:  # whatever importing a user's module raises
        module, _, name = path.rpartition(".")
        known = (
            [n for n in vars(sys.modules.get(module, object())) if not n.startswith("_")]
            if module in sys.modules
            else []
        )
        hint = f"; {nearby(name, sorted(known))}" if known else ""
        reason = "" if known else f" ({type(error.__cause__ or error).__name__}: {error.__cause__ or error})"
        raise Refused(f"{where}._target_={path}: can't be imported{reason}{hint}") from error


def _check_arguments(where: str, target: Callable[..., Any], arguments: Mapping[str, Any], later: int) -> None:
    """Binds the arguments to the signature, so that a misspelt one fails now and not after an hour."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C, without one
        return
    names = list(signature.parameters)[later:]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in arguments:
        if key not in names and not open_ended:
            raise Refused(f"{where}.{key}={arguments[key]}: {_name(target)} has no such argument; {nearby(key, names)}")
    try:
        signature.bind(*[None] * later, **arguments)
    except TypeError as error:
        raise Refused(f"{where}: {_name(target)}: {error}") from error
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # annotations that can't be resolved tell us nothing
        return
    kinds = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    for key, value in arguments.items():
        wanted = hints.get(key)
        fits = isinstance(value, (int, float) if wanted is float else wanted) if wanted in kinds else True
        if wanted in kinds and (not fits or (isinstance(value, bool) and wanted is not bool)):
            if wanted is str and isinstance(value, int | float):
                continue  # `precision: 32` reads as a number
            raise Refused(f"{where}.{key}={value}: must be {kinds[wanted]}")


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
                raise Refused(f"{key}: {error}") from error
        return value

    converted = {key: steps(f"{where}.{key}", value) for key, value in node.items()}
    for key in ("steps", "recipe_steps", "evaluate", "warmup", "rewind", "first"):
        if key in converted and (not isinstance(converted[key], int) or isinstance(converted[key], bool)):
            raise Refused(f"{where}.{key}={node[key]}: must be a duration such as 500, 500it or 2ep")
    return converted


def _identity(value: Any) -> Any:
    """A node as plain data without arguments that equal the function's own defaults.

    So a new argument whose default changes nothing leaves all older results where they are found.
    """
    if isinstance(value, list):
        return [_identity(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {key: _identity(item) for key, item in value.items() if key != "_partial_"}
    if "_target_" in value:
        target, _ = _target("", value)
        try:
            defaults = {k: p.default for k, p in inspect.signature(target).parameters.items()}
        except ValueError:
            defaults = {}
        kept = {key: item for key, item in kept.items() if key not in defaults or defaults[key] != value[key]}
    return kept


def _code(config: Mapping[str, Any]) -> dict[str, str]:
    """The identity of all code named by import path that is not ours or PyTorch's, by top-level package.

    An installed package is its version; anything else the digest of all its Python files.
    """
    packages = {target.split(".")[0] for group in SCIENCE_GROUPS for target in _targets(config[group])}
    return {name: _package(name) for name in sorted(packages - {"lottery", "torch"})}


def _targets(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["_target_"]] if "_target_" in value else []
        return own + [target for item in value.values() for target in _targets(item)]
    return [target for item in value for target in _targets(item)] if isinstance(value, list) else []


def _package(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        file = getattr(sys.modules[name], "__file__", None) or next(iter(sys.modules[name].__path__), "")
        root = Path(file).parent if Path(file).name == "__init__.py" else Path(file)
        files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
        seen = sha256()
        for path in files:
            seen.update(path.relative_to(root.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return seen.hexdigest()


def _name(target: Callable[..., Any]) -> str:
    return f"{target.__module__}.{getattr(target, '__qualname__', target)}"
