"""Convolutions and products of matrices: a weight's rows produce channels, its columns consume them."""

from __future__ import annotations

import torch
from torch import Tensor

from lottery.pruning.channels.carried import CONSUMES, NORMALISES, PRODUCES, Carried, Operation, Place, lone
from lottery.pruning.channels.moves import activation


def convolution(flow: Carried, op: Operation) -> None:
    """Of any dimension, grouped, depthwise, transposed.

    In a grouped convolution the same places of each group go together, so that the groups stay of one size. In a
    depthwise one each input goes with its outputs.
    """
    inputs, weight, bias, result = op.given["input"], op.given["weight"], op.given["bias"], op.results[0]
    place, transposed, groups = flow.place(weight), op.given["transposed"], op.given["groups"]
    channels = flow.along(activation(flow, inputs, op), 1, op.why("channels lie along its image too"))
    first = flow.row(place, 0, CONSUMES if transposed and groups == 1 else PRODUCES) if place else None
    second = flow.row(place, 1, PRODUCES if transposed else CONSUMES) if place else None
    if first is None or second is None:
        _computed(flow, op, weight, inputs)
        return
    first, second = first.expand(weight.shape[0]), second.expand(weight.shape[1])
    why, channels = op.why("it reads what has no channels"), channels.expand(inputs.shape[1])
    if groups == 1:
        consumed, outputs = (first, second) if transposed else (second, first)
        flow.labels.unite(consumed, channels, why)
    elif groups == len(channels) and (transposed or weight.shape[1] == 1):
        flow.labels.unite(first, channels.repeat_interleave(len(first) // groups), why)
        if transposed and len(second) > 1:
            flow.labels.fix(second, op.why("several outputs of one channel"))
        outputs = channels.repeat_interleave(len(second)) if transposed else first
    else:
        within, rows = channels.view(groups, -1), first.view(groups, -1)
        flow.labels.unite(within, within[:1], why)
        flow.labels.unite(rows, rows[:1], why)
        flow.labels.unite(rows[0] if transposed else second, within[0], why)
        outputs = second.repeat(groups) if transposed else first
    if isinstance(bias, Tensor):
        _biased(flow, op, bias, outputs)
    flow.put(result, outputs.view(lone(result.ndim, 1)))


def linear(flow: Carried, op: Operation) -> None:
    """A linear layer as one operation."""
    place = flow.place(op.given["weight"])
    turned = Place(place.name, tuple(index.transpose(0, 1) for index in place.index)) if place else None
    _product(flow, op, op.given["input"], op.given["weight"].t(), None, turned)
    if isinstance(op.given["bias"], Tensor):
        _biased(flow, op, op.given["bias"], flow.of(op.results[0]))


def product(flow: Carried, op: Operation) -> None:
    """Products of matrices, of batches of them, and such a product added to something."""
    left, right = op.tensors[-2:]
    _product(flow, op, left, right, flow.place(left), flow.place(right))
    if len(op.tensors) > 2:
        _biased(flow, op, op.tensors[0], flow.of(op.results[0]))


def _product(flow: Carried, op: Operation, left: Tensor, right: Tensor, by: Place | None, over: Place | None) -> None:
    result = op.results[0]
    if by and over:
        _computed(flow, op, left, right)
    elif over or by:
        place, labels = (over, flow.of(left)) if over else (by, flow.of(right).transpose(-2, -1))
        assert place
        if not over:  # as if the weight came second
            place = Place(place.name, tuple(index.transpose(-2, -1) for index in place.index))
        found = _weighted(flow, op, labels, place)
        if found is None:
            return _computed(flow, op, *((right, left) if over else (left, right)))
        flow.put(result, found if over else found.transpose(-2, -1))
    else:
        flow.put(result, _of_activations(flow, op, flow.of(left), flow.of(right)))
    return None


def _weighted(flow: Carried, op: Operation, labels: Tensor, place: Place) -> Tensor | None:
    """Labels of activations (..., M, K) times a weight (..., K, N); None if it is no weight of rows and columns."""
    elsewhere = [dim for dim in flow.varies(labels) if dim != labels.ndim - 1]
    mixes = bool(elsewhere) and labels.ndim - 1 not in flow.varies(labels)  # positions, and not channels
    consumed = flow.row(place, -2, NORMALISES if mixes else CONSUMES)
    produced = flow.row(place, -1, NORMALISES if mixes else PRODUCES)
    if consumed is None or produced is None:
        return None
    if mixes:
        flow.labels.fix(torch.cat([consumed, produced]), op.why("it mixes positions, and not channels"))
        return labels.narrow(-1, 0, 1)
    why = op.why("it reads what has no channels")
    flow.labels.unite(consumed, flow.along(labels, labels.ndim - 1, why), why)
    for axis, index in enumerate(place.index):  # a weight for each part of a batch
        if any(n > 1 for n in index.shape[:-2]):
            flow.labels.fix(flow.axis(place.name, axis, NORMALISES), op.why("there is one for each part of a batch"))
    return produced.view(lone(labels.ndim, labels.ndim - 1))


def _of_activations(flow: Carried, op: Operation, left: Tensor, right: Tensor) -> Tensor:
    """As in attention. What is summed over goes together, and so do the channels of both in the result."""
    why = op.why("channels are summed over")
    if max(left.shape[-1], right.shape[-2]) > 1:
        rows, columns = left.movedim(-1, -2), right
        flow.labels.unite(rows.narrow(-1, 0, 1), columns.narrow(-1, 0, 1), why)
        flow.labels.unite(left, left.narrow(-1, 0, 1), why)
        flow.labels.unite(right, right.narrow(-2, 0, 1), why)
    left, right = left.narrow(-1, 0, 1), right.narrow(-2, 0, 1)
    if not left.any() or not right.any():
        return left if left.any() else right
    flow.labels.unite(left, right, why)
    return torch.broadcast_tensors(left, right)[0]


def _biased(flow: Carried, op: Operation, bias: Tensor, outputs: Tensor) -> None:
    why = op.why("its bias is none of one channel each")
    if (place := flow.place(bias)) is not None:
        flow.used(place, outputs, why, PRODUCES)
    elif bias.numel() > 1:
        flow.labels.unite(flow.of(bias), outputs, why)


def _computed(flow: Carried, op: Operation, weight: Tensor, inputs: Tensor) -> None:
    why = op.why("the weight is computed anew, or is used otherwise than by rows and columns")
    for tensor in (*op.tensors, weight, inputs):
        flow.fix(tensor, why)
    label = flow.labels.fresh(1)
    flow.labels.fix(label, why)
    flow.put(op.results[0], label.view((1,) * op.results[0].ndim))
