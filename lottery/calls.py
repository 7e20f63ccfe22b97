"""Calls: a configuration node names a function and its arguments; both are checked before the call."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from hydra._internal.utils import _locate  # unlike get_object, it logs nothing
from torch import nn

from lottery.data.examples import DataError
from lottery.errors import Refused, nearby

_KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null",
    Sequence: "a list", Iterable: "a list", list: "a list", tuple: "a list", Mapping: "names with values",
    dict: "names with values", Callable: "a node with a _target_",
}  # fmt: skip
"""what an argument annotated so is in a yaml"""

_LATER = {
    "model": 0, "module": 1, "optimizer": 1, "criterion": 1, "scope": 3, "learning_rate": 2, "weights": 1, "masks": 2,
    "init": 1, "augment": 2, "length": 2,
}  # fmt: skip
"""nodes that are functions, and how many arguments they are called with later"""


def make(where: str, node: Mapping[str, Any]) -> Any:
    """Calls what a node names with its arguments; prepares the call if it says `_partial_` or its role is a function's.

    Names, types and values are checked first. Raises Refused, naming the key.
    """
    target, arguments = target_of(where, node)
    arguments = {
        key: make(f"{where}.{key}", value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in arguments.items()
    }
    role = where.rpartition(".")[2]
    if node.get("_partial_", role in _LATER):
        return partial(target, **_checked(where, target, arguments, _LATER.get(role)))
    arguments = _checked(where, target, arguments, 0)
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


def _checked(where: str, target: Callable[..., Any], arguments: dict[str, Any], later: int | None) -> dict[str, Any]:
    """The arguments if they fit the signature, so that a misspelt one fails now and not after an hour.

    `later` positional arguments come with the call, or nobody knows how many if it is None.

    A number where text is asked for becomes text: `precision: 32` reads as a number.
    """
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C, without one
        return arguments
    names = list(signature.parameters)[later or 0 :]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in arguments:
        if key not in names and not open_ended:
            raise Refused(_no_such(where, key, arguments, target, names))
    try:
        if later is None:
            signature.bind_partial(**arguments)
        else:
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
            raise Refused(f"{where}.{key}={as_yaml(value)}: must be {' or '.join(kinds)}{inner}")
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
    given = f"{where}.{key}={as_yaml(arguments[key])}"
    taken_out = "" if "did you mean" in allowed else f"; ~{where}.{key} takes it out"
    return f"{given}: {_name(target)} has no such argument; {allowed}{taken_out}"


def as_yaml(value: Any) -> str:
    """A value as a yaml has it: `null`, `true`, `[1, 2]`."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _name(target: Callable[..., Any]) -> str:
    return f"{target.__module__}.{getattr(target, '__qualname__', target)}"


def located(where: str, error: Exception) -> str:
    """What an error says, behind the name of the part that it is about.

    >>> located("criterion", ValueError("batches=0: must be at least 1"))
    'criterion.batches=0: must be at least 1'
    >>> located("model", TypeError("no shape"))
    'model: no shape'
    """
    said = str(error).split("\n")[0] or type(error).__name__
    if said.startswith((f"{where}.", f"{where}:", "numerics.")):
        return said
    key, equals, _ = said.partition("=")
    is_key = bool(equals) and all(part.isidentifier() for part in key.split("."))
    return f"{where}.{said}" if is_key else f"{where}: {said}"
