"""Operations that only move elements: labels move with them, by the same operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lottery.pruning.channels.carried import Carried, Operation, Place, lone

Table = Callable[[Tensor], list[Tensor]]
"""Moves a tensor of labels, or of indices, that has the shape of what is moved."""


def same(flow: Carried, op: Operation) -> None:
    """Copies, and tensors made of the shape of another."""
    _moved(flow, op, lambda table: [table for _ in op.results])


def moved(flow: Carried, op: Operation) -> None:
    """Turned, expanded, repeated: whatever the number of channels, it means the same."""
    _moved(flow, op, lambda table: _called(op, table))


def viewed(flow: Carried, op: Operation) -> None:
    """Reshaped. Where one dimension of different channels becomes two, their sizes may be numbers, so it is fixed."""
    source, result = op.tensors[0], op.results[0]
    before = _varying(flow, source)
    _moved(flow, op, lambda table: [table.reshape(result.shape)])
    if not op.heads and _varying(flow, result) > before:
        flow.fix(source, op.why("its channels are divided into two dimensions"))


def cut(flow: Carried, op: Operation) -> None:
    """Pieces at places that are numbers, so that different channels along that dimension are fixed.

    Unless it is a number of equal parts: then the same places of each part go together.
    """
    source = op.tensors[0]
    whole = all(result.shape == source.shape for result in op.results)
    for dim in _cut_dims(op):
        if whole and op.name not in ("roll", "index", "index_select"):  # which give all of it in another order
            continue
        labels, place = flow.of(source), flow.place(source)
        why = op.why("it is cut at fixed places")
        equal = op.parts and source.shape[dim] == len(op.results) * op.results[0].shape[dim]
        if place is not None:
            if not op.heads and any(index.shape[dim] > 1 for index in place.index):
                flow.fix(source, why)
        elif dim in flow.varies(labels) and not op.heads:
            if equal:
                first, *others = labels.chunk(len(op.results), dim)
                for part in others:
                    flow.labels.unite(first, part, why)
            else:
                flow.labels.fix(labels, why)
    _moved(flow, op, lambda table: _called(op, table))


def joined(flow: Carried, op: Operation) -> None:
    """Concatenated or stacked. Channels along the other dimensions meet."""
    result, dim = op.results[0], op.given.get("dim", 0) % op.results[0].ndim
    pieces = []
    for tensor in op.tensors:
        labels, shape = activation(flow, tensor, op), tensor.shape
        if op.name == "stack":
            labels, shape = labels.unsqueeze(dim), torch.Size((*shape[:dim], 1, *shape[dim:]))
        if len(shape) == result.ndim:  # an old exception: tensors of no elements may have any shape
            pieces.append(labels.expand(*labels.shape[:dim], shape[dim], *labels.shape[dim + 1 :]))
    why = op.why("it is joined to what has no channels, or to what is fixed")
    if any(n > 1 for labels in pieces for d, n in enumerate(labels.shape) if d != dim):
        for labels in pieces:
            flow.labels.unite(labels, pieces[0].narrow(dim, 0, 1), why)
    wide = [max(sizes) for sizes in zip(*(labels.shape for labels in pieces), strict=True)]
    pieces = [p.expand(*wide[:dim], p.shape[dim], *wide[dim + 1 :]) for p in pieces]
    flow.put(result, torch.cat(pieces, dim))


def padded(flow: Carried, op: Operation) -> None:
    """Zeros around, and where there are channels their number may be written down."""
    source, pad = op.tensors[0], op.given["pad"]
    labels = activation(flow, source, op)
    dims = {source.ndim - 1 - i // 2 for i, size in enumerate(pad) if size}
    if dims & set(flow.varies(labels)):
        flow.labels.fix(labels, op.why("its channels are padded"))
        labels = labels.flatten()[:1].view((1,) * source.ndim)
    flow.put(op.results[0], labels)


def halved(flow: Carried, op: Operation) -> None:
    """Gated linear units: the first half times what the second lets through (Dauphin et al. 2017)."""
    dim, labels = op.given["dim"], activation(flow, op.tensors[0], op)
    if labels.shape[dim] > 1:
        first, second = labels.chunk(2, dim)
        flow.labels.unite(first, second, op.why("the halves are multiplied"))
        labels = first
    flow.put(op.results[0], labels)


def shuffled_pixels(flow: Carried, op: Operation) -> None:
    """Channels become places: those that become one channel go together (Shi et al. 2016)."""
    labels, square = activation(flow, op.tensors[0], op), op.given["upscale_factor"] ** 2
    channels = flow.along(labels, labels.ndim - 3, op.why("channels lie along its image too"))
    if len(channels) > 1:
        parts = channels.view(-1, square)
        flow.labels.unite(parts, parts[:, :1], op.why("they become one channel"))
        channels = parts[:, 0]
    flow.put(op.results[0], channels.view(lone(labels.ndim, labels.ndim - 3)))


def activation(flow: Carried, tensor: Tensor, op: Operation) -> Tensor:
    """The labels of a tensor as an activation. Of a parameter's axes the last one has the channels."""
    if (place := flow.place(tensor)) is None:
        return flow.of(tensor)
    wide = [axis for axis in range(len(place.index)) if flow.shapes[place.name][axis] > 1]
    dims = [d for d, n in enumerate(place.index[wide[-1]].shape) if n > 1] if wide else []
    for axis in wide if len(dims) != 1 else wide[:-1]:
        flow.labels.fix(flow.axis(place.name, axis, "produces"), op.why("it is the value of an activation"))
    if len(dims) != 1:
        return torch.zeros((1,) * tensor.ndim, dtype=torch.long)
    return flow.axis(place.name, wide[-1], "produces")[place.index[wide[-1]]]


def _moved(flow: Carried, op: Operation, table: Table) -> None:
    source = op.tensors[0]
    if (place := flow.place(source)) is not None:
        moved = zip(*(table(index.expand(source.shape)) for index in place.index), strict=True)
        for result, index in zip(op.results, moved, strict=True):
            flow.put_place(result, Place(place.name, index))
    else:
        for result, labels in zip(op.results, table(flow.of(source).expand(source.shape)), strict=True):
            flow.put(result, labels)


def _called(op: Operation, table: Tensor) -> list[Tensor]:
    def swapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            return table if value is op.tensors[0] else value.cpu()
        return [swapped(each) for each in value] if isinstance(value, list | tuple) else value

    found = op.func(*map(swapped, op.args), **{key: swapped(value) for key, value in op.kwargs.items()})
    return list(found) if isinstance(found, list | tuple) else [found]


def _cut_dims(op: Operation) -> list[int]:
    if op.name == "index":
        return [dim for dim, index in enumerate(op.given["indices"]) if index is not None]
    dims = op.given["dims"] if op.name == "roll" else [op.given.get("dimension", op.given.get("dim", 0))]
    return [dim % op.tensors[0].ndim for dim in dims or range(op.tensors[0].ndim)]


def _varying(flow: Carried, tensor: Tensor) -> int:
    if (place := flow.place(tensor)) is None:
        return len(flow.varies(flow.of(tensor)))
    return sum(n > 1 for index in place.index for n in index.shape)
