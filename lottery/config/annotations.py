"""Type annotations of function arguments, read to convert and to check the values that a yaml gives them."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lottery.foundations.durations import DURATION

_LISTS = (Sequence, Iterable, list, tuple)
_KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null",
    **dict.fromkeys(_LISTS, "a list"), Mapping: "names with values", dict: "names with values",
    Callable: "a node with a _target_",
}  # fmt: skip
"""What an argument with this annotation is called in error messages about a yaml."""


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's arguments; empty if they can't be resolved, so that nothing is checked."""
    # a dataclass may inherit fields whose annotations only the module of its base can resolve
    own = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        return typing.get_type_hints(own, include_extras=True)
    except Exception:  # names may stand for anything, and evaluating them may raise anything
        return {}


def awaited(hint: Any) -> tuple[bool, int | None]:
    """Whether an annotation asks for a function, and how many arguments it will be called with (None: unknown).

    >>> awaited(Callable[[float, int], float]), awaited(Callable[..., float] | None), awaited(Sequence[int])
    ((True, 2), (True, None), (False, 0))
    """
    for each in _alternatives(hint):
        if _plain(each) is Callable:
            arguments = next(iter(typing.get_args(each)), ...)
            return True, len(arguments) if isinstance(arguments, list) else None
    return False, 0


def inner(hint: Any) -> Any:
    """The annotation of the items of a list or a mapping; None if there is none.

    >>> inner(Sequence[int] | None), inner(Mapping[str, float]), inner(int)
    (<class 'int'>, <class 'float'>, None)
    """
    held = [args for each in _alternatives(hint) if _plain(each) in (*_LISTS, Mapping, dict) and (args := _held(each))]
    return held[0][-1] if held else None


def is_duration(hint: Any) -> bool:
    """Whether an annotation asks for optimizer steps, which a yaml may write as `2ep`."""
    return any(DURATION in getattr(each, "__metadata__", ()) for each in _alternatives(hint))


def takes_null(hint: Any) -> bool:
    return types.NoneType in _alternatives(hint)


def misfit(value: Any, hint: Any) -> str | None:
    """What a value must be, in words, if its annotation does not allow it; None if it does or can't be checked.

    >>> misfit("abc", int | None), misfit([1, "b"], Sequence[int]), misfit(2, float)
    ('a whole number or null', 'a list of whole numbers', None)
    """
    if _fits(value, hint):
        return None
    kinds = dict.fromkeys(_KINDS[_plain(each)] for each in _alternatives(hint) if _plain(each) in _KINDS)
    item = _plain(inner(hint))
    of = f" of {_KINDS[item].partition(' ')[2]}s" if item in (int, float) and "a list" in kinds else ""
    return " or ".join(kinds) + of


def _fits(value: Any, hint: Any) -> bool:
    alternatives = list(_alternatives(hint))
    known = [each for each in alternatives if _plain(each) in _KINDS]
    if len(known) < len(alternatives) and (not known or not isinstance(value, str | int | float | None)):
        return True  # a user's own class can't be checked; a plain value is, if the annotation allows one too
    return any(_fits_plain(value, each) for each in known)


def _fits_plain(value: Any, hint: Any) -> bool:
    plain = _plain(hint)
    if plain is str:
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    if plain in _LISTS:
        return isinstance(value, list | tuple) and all(_fits(item, each) for each in _held(hint) for item in value)
    if isinstance(value, bool) and plain is not bool:
        return False
    return isinstance(value, int | float if plain is float else plain)


def _held(hint: Any) -> list[Any]:
    return [each for each in typing.get_args(hint) if each is not ...][-1:]


def _alternatives(hint: Any) -> Iterator[Any]:
    """The members of a union, or the annotation alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for each in typing.get_args(hint):
            yield from _alternatives(each)
    else:
        yield hint


def _plain(hint: Any) -> Any:
    """The class behind an annotation such as `Sequence[int]`."""
    if getattr(hint, "__metadata__", None):  # Annotated
        return _plain(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint
