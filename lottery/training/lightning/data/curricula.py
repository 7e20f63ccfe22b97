"""What a project's hooks set on its data sets, such as a level by epoch.

A checkpoint keeps it, since the hook that set it is not called again in the middle of an epoch; and it is undone once
its training has ended, since the next one may find the same data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lottery.foundations.errors import Refused

PLAIN = bool | int | float | str | Tensor | None
"""What a checkpoint can hold."""


class Curriculum:
    """What was set on a data set, and on those that it wraps, from without: between two of its batches.

    What a data set changes of itself as it is read is its own.
    """

    def __init__(self, dataset: Any) -> None:
        self._parts = _chain(dataset)
        self._before = [dict(vars(part)) for part in self._parts]
        self._known = [dict(before) for before in self._before]
        self.set: dict[str, Any] = {}
        """what was set, by the data set's place in the chain and the name"""

    def note(self) -> bool:
        """Notes what was set since the last reading; whether anything was. Raises Refused if no checkpoint holds it."""
        found = self._changed()
        for at, value in found.items():
            part, name, known = self._place(at, self._known)
            # what was not there before, a data set may have made for itself, such as an index for its length
            if not isinstance(value, PLAIN) and known.get(name) is not None:
                raise Refused(
                    f"model: a hook sets {name} of the training data set {type(part).__name__} to a "
                    f"{type(value).__name__}, which no checkpoint holds; it must be a number, a text or a tensor"
                )
        self.set |= {at: value for at, value in found.items() if isinstance(value, PLAIN)}
        self.read()
        return bool(found)

    def read(self) -> None:
        """What has changed since `note` was changed by reading."""
        self._known = [dict(vars(part)) for part in self._parts]

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Sets what a checkpoint has noted."""
        for at, value in saved.items():
            part, name, _ = self._place(at, self._known)
            setattr(part, name, value)
        self.set = dict(saved)
        self.read()

    def undo(self) -> None:
        """Puts the data set back to what it was before anything was set."""
        for at in self.set | self._changed():
            part, name, before = self._place(at, self._before)
            if name in before:
                setattr(part, name, before[name])
            else:
                delattr(part, name)
        self.set = {}
        self.read()

    def _changed(self) -> dict[str, Any]:
        return {
            f"{place}.{name}": value
            for place, (part, known) in enumerate(zip(self._parts, self._known, strict=True))
            for name, value in vars(part).items()
            if name not in known or known[name] is not value
        }

    def _place(self, at: str, then: list[dict[str, Any]]) -> tuple[Any, str, dict[str, Any]]:
        place, name = at.split(".", 1)
        return self._parts[int(place)], name, then[int(place)]


@contextmanager
def as_it_was(loaders: Iterable[Any]) -> Iterator[None]:
    """Undoes, after the context, what was set on the data sets of loaders that have a `curriculum`."""
    try:
        yield
    finally:
        for loader in loaders:
            loader.curriculum.undo()


def _chain(dataset: Any) -> list[Any]:
    """A data set and those that it wraps, as Subset and ConcatDataset do."""
    found, left = list[Any](), [dataset]
    while left:
        part = left.pop(0)
        if hasattr(part, "__dict__") and not any(part is known for known in found):
            found.append(part)
            inner = vars(part).get("datasets")
            left += [vars(part).get("dataset"), *(inner if isinstance(inner, list | tuple) else [])]
    return found
