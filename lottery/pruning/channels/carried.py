"""What the tensors of a run carry: activations a label for each element, views of parameters where each one lies."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.weak import WeakTensorKeyDictionary

from lottery.pruning.channels.labels import NONE, Labels

PRODUCES, NORMALISES, CONSUMES = "produces", "normalises", "consumes"


@dataclass(frozen=True)
class Place:
    """Where the elements of a view of a parameter lie: its index along each of the parameter's axes.

    An index has as many dimensions as the view, of size 1 where it does not change: there are never as many numbers as
    the parameter has weights, unless two of its axes are merged.
    """

    name: str
    index: tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """One operation of the run."""

    func: OpOverload
    name: str
    """its name without the variant, such as add_"""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: dict[str, Any]
    """the arguments by name, defaults included"""
    tensors: list[Tensor]
    """those among the arguments, in order"""
    results: list[Tensor]
    layer: str
    """path of the layer in which it runs"""
    heads: bool = False
    """whether it is part of an attention layer whose heads can be removed"""
    parts: bool = False
    """whether it cuts into a number of equal parts, whatever their size"""

    def why(self, text: str) -> str:
        return f"{text} ({self.name}{f' in {self.layer}' if self.layer else ''})"


@dataclass
class Carried:
    """The labels of a run. Equal sets of labels are channels that go together."""

    named: dict[int, str]
    """parameters and buffers by identity, under their first names"""
    shapes: dict[str, torch.Size]
    labels: Labels = field(default_factory=Labels)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """a label for each position of each axis of a parameter that an operation has used"""
    roles: defaultdict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    _activations: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    _places: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    @classmethod
    def by(cls, net: nn.Module) -> Carried:
        """Nothing but the parameters and buffers of a network, which must live as long as this does."""
        named = [*net.named_parameters(), *net.named_buffers()]
        return cls({id(tensor): name for name, tensor in named}, {name: tensor.shape for name, tensor in named})

    def of(self, tensor: Tensor) -> Tensor:
        """The labels of an activation, of size 1 along the dimensions in which they do not change."""
        found = self._activations.get(tensor)
        return torch.full((1,) * tensor.ndim, NONE) if found is None else found

    def put(self, tensor: Tensor, labels: Tensor) -> None:
        self._activations[tensor] = compact(self.labels.sets(labels))

    def place(self, tensor: Tensor) -> Place | None:
        """Where the elements of a parameter or a view of one lie; None for an activation."""
        if (name := self.named.get(id(tensor))) is None:
            return self._places.get(tensor)
        shape = self.shapes[name]
        return Place(name, tuple(torch.arange(size).view(lone(len(shape), d)) for d, size in enumerate(shape)))

    def put_place(self, tensor: Tensor, place: Place) -> None:
        self._places[tensor] = Place(place.name, tuple(map(compact, place.index)))

    def axis(self, name: str, axis: int, role: str) -> Tensor:
        """The labels of a parameter's axis."""
        if (name, axis) not in self.axes:
            self.axes[name, axis] = self.labels.fresh(self.shapes[name][axis])
        self.roles[name, axis].add(role)
        return self.axes[name, axis]

    def row(self, place: Place, dim: int, role: str) -> Tensor | None:
        """The labels along one dimension of a view; `NONE` where it has size 1, since an only channel can't go.

        None if they are not those of one axis alone.
        """
        axes = [axis for axis, index in enumerate(place.index) if index.shape[dim] > 1]
        if not axes:
            return torch.full((1,), NONE)
        index = place.index[axes[0]]
        if len(axes) > 1 or index.numel() > index.shape[dim]:
            return None
        return self.axis(place.name, axes[0], role)[index.flatten()]

    def used(self, place: Place, labels: Tensor, why: str, role: str = NORMALISES) -> None:
        """Elements of a parameter meet activations: the axes along which these have channels go with them.

        All other axes of the parameter are fixed.
        """
        for axis, index in enumerate(place.index):
            if self.shapes[place.name][axis] > 1:
                own = self.axis(place.name, axis, role)[index]
                index = index[(None,) * (labels.ndim - index.ndim)]
                if any(size > 1 < labels.shape[dim] for dim, size in enumerate(index.shape)):
                    self.labels.unite(own, labels, why)
                else:
                    self.labels.fix(own, why)

    def fix(self, tensor: Tensor, why: str) -> None:
        """Fixes all that a tensor carries; all axes of a parameter."""
        if (place := self.place(tensor)) is None:
            self.labels.fix(self.of(tensor), why)
        else:
            for axis in range(len(self.shapes[place.name])):
                self.labels.fix(self.axis(place.name, axis, NORMALISES), why)

    def varies(self, labels: Tensor) -> list[int]:
        """The dimensions along which labels are those of different channels, of which some may go."""
        roots = self.labels.roots(labels)
        return [d for d, n in enumerate(roots.shape) if n > 1 and not (roots == roots.narrow(d, 0, 1)).all()]

    def along(self, labels: Tensor, dim: int, why: str) -> Tensor:
        """The labels along one dimension; those of the others are united."""
        flat = labels.movedim(dim, 0).flatten(1) if labels.ndim > 1 else labels[:, None]
        if flat.shape[1] > 1:
            self.labels.unite(flat, flat[:, :1], why)
        return flat[:, 0]


def compact(labels: Tensor) -> Tensor:
    """The same with size 1 along the dimensions in which nothing changes.

    >>> compact(torch.tensor([[1, 2], [1, 2]]))
    tensor([[1, 2]])
    """
    for dim, size in enumerate(labels.shape):
        if size > 1 and (labels.stride(dim) == 0 or (labels == labels.narrow(dim, 0, 1)).all()):
            labels = labels.narrow(dim, 0, 1)
    return labels.clone() if math.prod(labels.shape) < labels.untyped_storage().size() // 8 else labels


def lone(ndim: int, dim: int) -> list[int]:
    """A shape that has one dimension only of any size.

    >>> lone(3, 1)
    [1, -1, 1]
    """
    return [-1 if each == dim else 1 for each in range(ndim)]
