"""From configuration to objects: every node is a call, checked before anything trains."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import _locate  # unlike get_object, it logs nothing
from torch import nn

from lottery.arms import Arm
from lottery.data.examples import Data, DataError
from lottery.durations import canonical, in_steps
from lottery.names import SCIENCE_GROUPS, Job, Refused, find, nearby, options
from lottery.rehearsal import Misfit, located, rehearse
from lottery.rounds import Pruning
from lottery.study import Cell, Study
from lottery.training import Recipe

_LATER = {
    "model": 0, "module": 1, "optimizer": 1, "criterion": 1, "scope": 3, "learning_rate": 2, "weights": 1, "masks": 2,
}  # fmt: skip
"""nodes that are functions, and how many arguments they are called with later"""

_KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null",
    Sequence: "a list", Iterable: "a list", list: "a list", tuple: "a list", Mapping: "names with values",
    dict: "names with values", Callable: "a node with a _target_",
}  # fmt: skip
"""what an argument annotated so is in a yaml"""


def build(job: Job) -> Cell:
    """The cell that a job describes. Raises Refused for anything that can't be run as configured."""
    config = job.config
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or job.seed < 0:
        raise Refused(f"seed={_yaml(job.seed)}: must be a whole number, 0 or more")
    data = make("data", config["data"])
    if not isinstance(data, Data):
        raise Refused(f"data._target_={config['data']['_target_']}: must give a lottery.data.examples.Data")
    rate = config["optimizer"].get("lr", 0.0)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 0:
        raise Refused(f"optimizer.lr={_yaml(rate)}: must be a number, 0 or more")
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
    identity = {
        group: _identity(group, config[group]) for group in ("model", "module", "optimizer", "budget", "numerics")
    }
    identity |= {
        "data": {**_identity("data", config["data"]), "root": None, "content": data.digest},
        "code": _code(config),
    }
    study = Study(job.study, recipe, pruning, identity)
    return Cell(study, build_arm(job, data, budget.steps), job.label, job.seed)


def check(cell: Cell) -> None:
    """Tries everything once with one batch. Raises Refused with what doesn't fit, before anything is trained."""
    try:
        rehearse(cell)
    except Misfit as error:
        group = str(error).partition(":")[0]
        involved = {"model": ["model"], "module": ["model", "module"]}.get(group, [])
        given = [
            (g, key, value) for g in involved for key, value in cell.study.identity[g].items() if key != "_target_"
        ]
        settings = ", ".join(f"{g}.{key}={_yaml(value)}" for g, key, value in given)
        raise Refused(f"{error}{f' (with {settings})' if settings else ''}") from error


def build_arm(job: Job, data: Data, steps: int) -> Arm:
    """The arm, its parent built from the parent's own yaml with the same rewinding point."""
    node = dict(job.config["arm"])
    parent = node.pop("parent", None)
    node = _durations("arm", node, data)
    for key in ("rewind", "first"):
        if not 0 <= node[key] < steps:
            given = _yaml(job.config["arm"][key])
            raise Refused(
                f"arm.{key}={given}: must be a step from 0 to {steps - 1}, before the last (budget.steps={steps})"
            )
    if parent is None:
        return make("arm", node | {"name": job.label})
    pruning = [name for name in options("arm", job.sources) if not _shipped_arm(name, job).get("parent")]
    if parent not in options("arm", job.sources):
        raise Refused(f"arm.parent={_yaml(parent)}: there is no such arm; {nearby(str(parent), pruning)}")
    if parent not in pruning:
        raise Refused(f"arm.parent={parent}: it has no masks of its own; allowed: {', '.join(pruning)}")
    shipped = _shipped_arm(parent, job)
    shipped.pop("parent", None)
    rewind = job.config["arm"]["rewind"]
    name = parent if rewind == shipped["rewind"] else f"{parent},rewind={canonical(rewind)}"
    shipped = {key: node["rewind"] if value == "${.rewind}" else value for key, value in shipped.items()}
    shipped |= {"name": name, "rewind": node["rewind"]}
    return make("arm", node | {"name": job.label, "parent": make("arm.parent", shipped)})


def _shipped_arm(name: str, job: Job) -> dict[str, Any]:
    return yaml.safe_load(find("arm", name, job.sources).read_text())


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
    arguments = _checked(where, target, arguments, later)
    if node.get("_partial_"):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except DataError as error:
        raise Refused(str(error)) from error
    except (ValueError, TypeError) as error:
        unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[2] in arguments:  # handed on by a function that takes any
            owner = getattr(sys.modules[target.__module__], unknown[1], None)
            known = inspect.signature(owner).parameters if owner else {}
            names = [name for name, p in known.items() if p.default is not p.empty]
            raise Refused(_no_such(where, unknown[2], arguments, target, names)) from error
        raise Refused(located(where, error)) from error


def _network(node: Mapping[str, Any]) -> nn.Module:
    """The network, its weights drawn from torch's global generator."""
    net = make("model", {**node, "_partial_": False})
    if not isinstance(net, nn.Module):
        raise Refused(f"model._target_={node['_target_']}: must give a torch.nn.Module, not a {type(net).__name__}")
    return net


def _target(where: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    path = node.get("_target_")
    if not isinstance(path, str):
        raise Refused(f"{where}._target_={_yaml(path)}: must be the import path of a function")
    module, _, name = path.rpartition(".")
    try:
        target = _locate(path)
    except Exception as error:  # whatever importing a user's module raises
        members = vars(sys.modules[module]).items() if module in sys.modules else ()
        # what belongs to the module, and not what it imported for its own use
        known = sorted(
            n
            for n, v in members
            if callable(v) and n[0] != "_" and f"{getattr(v, '__module__', '')}.".startswith(f"{module}.")
        )
        cause = error.__cause__ or error
        reason = nearby(name, known) if known else f"{type(cause).__name__}: {cause}".split("\n")[0]
        raise Refused(f"{where}._target_={path}: can't be imported; {reason}") from error
    if not callable(target):
        raise Refused(
            f"{where}._target_={path}: must be the import path of a function, not of a {type(target).__name__}"
        )
    return target, arguments


def _checked(where: str, target: Callable[..., Any], arguments: dict[str, Any], later: int) -> dict[str, Any]:
    """The arguments if they fit the signature, so that a misspelt one fails now and not after an hour.

    A number where text is asked for becomes text: `precision: 32` reads as a number.
    """
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C, without one
        return arguments
    names = list(signature.parameters)[later:]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in arguments:
        if key not in names and not open_ended:
            raise Refused(_no_such(where, key, arguments, target, names))
    try:
        signature.bind(*[None] * later, **arguments)
    except TypeError as error:
        raise Refused(f"{where}: {_name(target)}: {error}") from error
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # annotations that can't be resolved tell us nothing
        return arguments
    for key, value in arguments.items():
        if key in hints and not _fits(value, hints[key]):
            wanted = typing.get_args(hints[key]) if _is_union(hints[key]) else (hints[key],)
            kinds = dict.fromkeys(_KINDS[_plain(hint)] for hint in wanted if _plain(hint) in _KINDS)
            of = [_KINDS[item] + "s" for item in typing.get_args(wanted[0]) if item in (int, float)]
            inner = f" of {of[0].partition(' ')[2]}" if of and "a list" in kinds else ""
            raise Refused(f"{where}.{key}={_yaml(value)}: must be {' or '.join(kinds)}{inner}")
    return {key: str(value) if hints.get(key) is str else value for key, value in arguments.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a yaml can be what an annotation asks for; annotations not known here say nothing."""
    if _is_union(hint):
        hints = typing.get_args(hint)
        known = [h for h in hints if _plain(h) in _KINDS]
        scalar = value is None or isinstance(value, str | int | float)
        return any(_fits(value, h) for h in (known if known and scalar else hints))
    plain = _plain(hint)
    if plain not in _KINDS:
        return True
    if plain is str:
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    if _KINDS[plain] == "a list":
        inner = [h for h in typing.get_args(hint) if h is not ...][:1]
        return isinstance(value, list | tuple) and all(_fits(item, h) for h in inner for item in value)
    if isinstance(value, bool) and plain is not bool:
        return False
    return isinstance(value, int | float if plain is float else plain)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _plain(hint: Any) -> Any:
    """The class behind an annotation such as `Sequence[int]`."""
    return typing.get_origin(hint) or hint


def _no_such(
    where: str, key: str, arguments: Mapping[str, Any], target: Callable[..., Any], names: Sequence[str]
) -> str:
    allowed = nearby(key, list(names)) if names else "it takes none"
    given = f"{where}.{key}={_yaml(arguments[key])}"
    taken_out = "" if "did you mean" in allowed else f"; ~{where}.{key} takes it out"
    return f"{given}: {_name(target)} has no such argument; {allowed}{taken_out}"


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
            raise Refused(f"{where}.{key}={_yaml(node[key])}: must be a duration such as 500, 500it or 2ep")
    return converted


def _identity(where: str, value: Any) -> Any:
    """A node as plain data without arguments that equal the function's own defaults.

    So a new argument whose default changes nothing leaves all older results where they are found.
    """
    if isinstance(value, list):
        return [_identity(where, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {key: _identity(f"{where}.{key}", item) for key, item in value.items() if key != "_partial_"}
    if "_target_" in value:
        target, _ = _target(where, value)
        try:
            defaults = {
                k: list(p.default) if isinstance(p.default, tuple) else p.default  # a yaml has lists only
                for k, p in inspect.signature(target).parameters.items()
            }
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
    if name in sys.stdlib_module_names:
        return f"python {platform.python_version()}"
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


def _yaml(value: Any) -> str:
    """A value as a yaml has it: `null`, `true`, `[1, 2]`."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _name(target: Callable[..., Any]) -> str:
    return f"{target.__module__}.{getattr(target, '__qualname__', target)}"
