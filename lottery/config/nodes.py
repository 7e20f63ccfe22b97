"""Calls the functions that configuration nodes name, after checking names, types and values of the arguments."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hydra._internal.utils import _locate  # unlike get_object, it logs nothing
from torch import nn

from lottery.config.annotations import awaited, hints_of, inner, is_duration, misfit, takes_null
from lottery.config.unified import unify
from lottery.data.examples import DataError
from lottery.foundations import durations
from lottery.foundations.errors import Refused, arose, nearby
from lottery.foundations.rooms import defined, homes, roomed, roomless


def make(where: str, node: Mapping[str, Any], wanted: Any = None) -> Any:
    """Calls the function that a node names; returns a partial instead if the annotation `wanted` asks for a function.

    `where` is the node's key, for messages. `_partial_` in a node takes precedence over the annotation. Raises Refused,
    naming the key, if a name, type or value does not fit.
    """
    target, arguments = target_of(where, node)
    hints = hints_of(target)
    arguments = {key: _made(f"{where}.{key}", value, hints.get(key)) for key, value in arguments.items()}
    prepared, later = awaited(wanted)
    if node.get("_partial_", prepared):
        return partial(target, **_checked(where, target, arguments, later if prepared else None))
    arguments = _checked(where, target, arguments, 0)
    try:
        return target(**arguments)
    except DataError as error:
        raise Refused(str(error)) from error
    except (ValueError, TypeError) as error:
        unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[2] in arguments:  # passed on by a function that accepts **kwargs
            owner = getattr(sys.modules[target.__module__], unknown[1], None)
            known = inspect.signature(owner).parameters if owner else {}
            names = [name for name, p in known.items() if p.default is not p.empty]
            raise Refused(_no_such(where, unknown[2], arguments, target, names)) from error
        raise Refused(located(where, error)) from error


def _made(where: str, value: Any, hint: Any) -> Any:
    """An argument with all nodes in it called."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return make(where, value, hint)
        return {key: _made(f"{where}.{key}", item, inner(hint)) for key, item in value.items()}
    return [_made(where, item, inner(hint)) for item in value] if isinstance(value, list) else value


def with_steps(where: str, node: Mapping[str, Any], steps_per_epoch: int) -> dict[str, Any]:
    """A node, still plain data, with each argument annotated as `Steps` converted to optimizer steps."""
    target, arguments = target_of(where, node)
    hints = hints_of(target)
    return {**node, **{k: _with_steps(f"{where}.{k}", v, hints.get(k), steps_per_epoch) for k, v in arguments.items()}}


def _with_steps(where: str, value: Any, hint: Any, steps_per_epoch: int) -> Any:
    if is_duration(hint) and not (value is None and takes_null(hint)):
        return in_steps(where, value, steps_per_epoch)
    if isinstance(value, Mapping):
        if "_target_" in value:
            return with_steps(where, value, steps_per_epoch)
        return {key: _with_steps(f"{where}.{key}", item, inner(hint), steps_per_epoch) for key, item in value.items()}
    return (
        [_with_steps(where, item, inner(hint), steps_per_epoch) for item in value] if isinstance(value, list) else value
    )


def in_steps(where: str, value: Any, steps_per_epoch: int) -> int:
    """A configured duration in optimizer steps. Raises Refused if it is no duration."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return durations.in_steps(value, steps_per_epoch)
    except ValueError as error:
        raise Refused(f"{where}={as_yaml(value)}: must be a duration such as 500, 500it or 2ep") from error


def network(node: Mapping[str, Any]) -> nn.Module:
    """The network of a `model` node, its weights drawn from torch's global generator."""
    net = make("model", {**node, "_partial_": False})
    if not isinstance(net, nn.Module):
        raise Refused(f"model._target_={node['_target_']}: must give a torch.nn.Module, not a {type(net).__name__}")
    return net


def target_of(where: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    path = node.get("_target_")
    if not isinstance(path, str):
        raise Refused(f"{where}._target_={as_yaml(path)}: must be the import path of a function")
    try:
        path = roomed(path)
    except ValueError as error:
        raise Refused(f"{where}._target_={error}") from error
    unify()
    try:
        target = _locate(path)
    except Exception as error:  # importing a user's module may raise anything
        cause = error.__cause__ or error
        known = _callables(path)
        reason = nearby(path.rpartition(".")[2], known) if known else f"{type(cause).__name__}: {cause}".split("\n")[0]
        raise Refused(f"{where}._target_={path}: can't be imported; {reason}") from error
    if not callable(target):
        raise Refused(
            f"{where}._target_={path}: must be the import path of a function, not of a {type(target).__name__}"
        )
    return target, arguments


def _callables(path: str) -> list[str]:
    """Suggestions for a path that can't be imported: the functions and classes that its module defines."""
    if own := homes(path):
        return sorted(set().union(*map(defined, own)))
    module = path.rpartition(".")[0]
    members = vars(sys.modules[module]).items() if module in sys.modules else ()
    return sorted(
        name
        for name, value in members
        if callable(value) and name[0] != "_" and f"{getattr(value, '__module__', '')}.".startswith(f"{module}.")
    )


def _checked(where: str, target: Callable[..., Any], arguments: dict[str, Any], later: int | None) -> dict[str, Any]:
    """The arguments if they fit the signature, so that a misspelt one fails now and not after an hour of training.

    `later` is how many positional arguments the call will add; None if that is unknown. A number becomes text if the
    annotation asks for text: a yaml's `precision: 32` is a number.
    """
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C, without one
        return arguments
    names = list(signature.parameters)[later or 0 :]
    if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        # Hydra can't delete a null, which an option may have left for another `_target_`
        arguments = {key: value for key, value in arguments.items() if key in names or value is not None}
        if unknown := [key for key in arguments if key not in names]:
            raise Refused(_no_such(where, unknown[0], arguments, target, names))
    try:
        if later is None:
            signature.bind_partial(**arguments)
        else:
            signature.bind(*[None] * later, **arguments)
    except TypeError as error:
        raise Refused(f"{where}: {_name(target)}: {error}") from error
    hints = hints_of(target)
    for key, value in arguments.items():
        if key in hints and (must := misfit(value, hints[key])):
            raise Refused(f"{where}.{key}={as_yaml(value)}: must be {must}")
    return {key: str(value) if hints.get(key) is str else value for key, value in arguments.items()}


def _no_such(
    where: str, key: str, arguments: Mapping[str, Any], target: Callable[..., Any], names: Sequence[str]
) -> str:
    allowed = nearby(key, list(names)) if names else "it takes none"
    given = f"{where}.{key}={as_yaml(arguments[key])}"
    taken_out = "" if "did you mean" in allowed else f"; ~{where}.{key} takes it out"
    return f"{given}: {_name(target)} has no such argument; {allowed}{taken_out}"


def as_yaml(value: Any) -> str:
    """A value as a yaml has it: `null`, `true`, `[1, 2]`."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _name(target: Callable[..., Any]) -> str:
    return roomless(f"{target.__module__}.{getattr(target, '__qualname__', target)}")


def located(where: str, error: Exception) -> str:
    """The message of an error, prefixed with the part of the configuration that it is about.

    >>> located("criterion", ValueError("batches=0: must be at least 1"))
    'criterion.batches=0: must be at least 1'
    >>> located("model", TypeError("no shape"))
    'model: no shape'
    >>> located("criterion", ValueError("criterion mine: scores of fc1.weight are torch.int64, not floats"))
    'criterion mine: scores of fc1.weight are torch.int64, not floats'
    >>> located("model", RuntimeError("Error(s) in loading state_dict for Net:\\n\\tMissing key(s): a.weight."))
    'model: Error(s) in loading state_dict for Net: Missing key(s): a.weight.'
    """
    first, *more = str(error).split("\n")
    said = " ".join([first, *more[:1]] if first.endswith(":") else [first]).replace("\t", "") or type(error).__name__
    if said.startswith((f"{where}.", f"{where}:", f"{where} ", "numerics.", "structure.", "structure:")):
        return said
    key, equals, _ = said.partition("=")
    if equals and all(part.isidentifier() for part in key.split(".")):
        return f"{where}.{said}"
    kind = type(error).__name__
    if (at := arose(error)) and not isinstance(error, ValueError) and said != kind:
        said = f"{kind}: {said}"
    return f"{where}: {said}{at}"
