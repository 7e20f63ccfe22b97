"""What an operation does to channels, by its name. One without a rule fixes all that reaches it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lottery.pruning.channels import moves, products
from lottery.pruning.channels.carried import PRODUCES, Carried, Operation, Place, lone

Rule = Callable[[Carried, Operation], None]


def follow(flow: Carried, op: Operation) -> None:
    """Lets the labels follow one operation."""
    rule = RULES.get(op.name)
    if rule is None and torch.Tag.pointwise in op.func.tags:
        rule = pointwise
    (rule or unknown)(flow, op)


def unknown(flow: Carried, op: Operation, because: str = "there is no rule for this operation") -> None:
    """Fixes whatever reaches it, and what it gives."""
    why = op.why(because)
    for tensor in op.tensors:
        flow.fix(tensor, why)
    _fixed(flow, op.results, why)


def group_norm(flow: Carried, op: Operation) -> None:
    """Statistics over groups of channels: all of them are fixed."""
    unknown(flow, op, "its mean is over channels")


def made(flow: Carried, op: Operation) -> None:
    """Tensors made of nothing have no channels."""


def pointwise(flow: Carried, op: Operation) -> None:
    """Element by element: what meets goes together.

    A tensor without channels may meet some as long as it has one element for all of them.
    """
    result = op.results[0]
    places = {id(tensor): place for tensor in op.tensors if (place := flow.place(tensor)) is not None}
    others = [tensor for tensor in op.tensors if id(tensor) not in places]
    if len(places) == 1 and all(tensor.numel() == 1 for tensor in others):
        (place,) = places.values()
        index = tuple(index[(None,) * (result.ndim - index.ndim)] for index in place.index)
        return flow.put_place(result, Place(place.name, index))
    carried = [(tensor, _padded(flow.of(tensor), result.ndim)) for tensor in others]
    carried.sort(key=lambda each: not flow.labels.roots(each[1]).any())  # those first of which channels may go
    total = torch.zeros((1,) * result.ndim, dtype=torch.long)
    why = op.why("its channels meet what has none, or what is fixed")
    for tensor, labels in carried:
        if not total.any():
            total = labels
        elif flow.labels.roots(labels).any() or _meets(tensor, total):
            flow.labels.unite(total, labels, why)
            total = torch.where(total == 0, labels, total)
    for place in places.values():
        flow.used(Place(place.name, tuple(_padded(index, result.ndim) for index in place.index)), total, why)
    for each in op.results:
        flow.put(each, total)
    return None


def batch_norm(flow: Carried, op: Operation) -> None:
    """Statistics of each channel by itself."""
    labels = moves.activation(flow, op.given["input"], op)
    why = op.why("channels lie along its image too")
    channels = flow.along(labels, 1, why)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(tensor := op.given.get(name), Tensor):
            _one_each(flow, op, tensor, channels)
    flow.put(op.results[0], labels)


def layer_norm(flow: Carried, op: Operation) -> None:
    """Statistics over the last dimensions: a channel that is zero is not the same as none."""
    labels, over = moves.activation(flow, op.given["input"], op), len(op.given["normalized_shape"])
    if any(dim >= labels.ndim - over for dim in flow.varies(labels)):
        flow.labels.fix(labels, op.why("its mean is over channels"))
    for name in ("weight", "bias"):
        if isinstance(tensor := op.given[name], Tensor):
            _one_each(flow, op, tensor, labels)
    flow.put(op.results[0], labels)


def reduction(flow: Carried, op: Operation) -> None:
    """A mean, sum or maximum over some dimensions; channels among them are fixed."""
    source = op.tensors[0]
    labels, dims = moves.activation(flow, source, op), op.given.get("dim")
    dims = range(source.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    over = {dim % source.ndim for dim in dims} if source.ndim else set()
    if over & set(flow.varies(labels)):
        flow.labels.fix(labels, op.why("it is over channels"))
    for dim in sorted(over, reverse=True):
        labels = labels.narrow(dim, 0, 1)
        if op.results[0].ndim < source.ndim:
            labels = labels.squeeze(dim)
    for result in op.results:
        flow.put(result, labels)


def softmax(flow: Carried, op: Operation) -> None:
    """Shares of a sum over one dimension, or sums up to each place; channels along it are fixed."""
    labels, dim = moves.activation(flow, op.tensors[0], op), op.given["dim"] % max(1, op.tensors[0].ndim)
    if dim in flow.varies(labels):
        flow.labels.fix(labels, op.why("it is over channels"))
    flow.put(op.results[0], labels)


def spatial(flow: Carried, op: Operation) -> None:
    """Pooling and resizing of images, each channel by itself."""
    sides = next(n for n in (1, 2, 3) if f"{n}d" in op.name)
    labels = moves.activation(flow, op.tensors[0], op)
    if any(dim >= labels.ndim - sides for dim in flow.varies(labels)):
        flow.labels.fix(labels, op.why("channels lie along its image too"))
    for dim in range(labels.ndim - sides, labels.ndim):
        labels = labels.narrow(dim, 0, 1)
    for result in op.results:
        flow.put(result, labels)


def embedding(flow: Carried, op: Operation) -> None:
    """Rows of a table, by their number."""
    weight, result = op.given["weight"], op.results[0]
    place = flow.place(weight)
    row = flow.row(place, 1, PRODUCES) if place else None
    if place is None or row is None:
        return unknown(flow, op)
    if (tokens := flow.row(place, 0, PRODUCES)) is not None:
        flow.labels.fix(tokens, op.why("its rows are found by their number"))
    flow.put(result, row.view(lone(result.ndim, result.ndim - 1)))
    return None


def _one_each(flow: Carried, op: Operation, tensor: Tensor, labels: Tensor) -> None:
    """A parameter with one element for each channel, or for each element of the last dimensions."""
    why = op.why("its parameters are none of one channel each")
    if (place := flow.place(tensor)) is not None:
        flow.used(place, labels, why)
    else:
        flow.labels.unite(flow.of(tensor), labels, why)


def _fixed(flow: Carried, results: list[Tensor], why: str) -> None:
    label = flow.labels.fresh(1)
    flow.labels.fix(label, why)
    for result in results:
        flow.put(result, label.view((1,) * result.ndim))


def _padded(labels: Tensor, ndim: int) -> Tensor:
    return labels[(None,) * (ndim - labels.ndim)]


def _meets(tensor: Tensor, total: Tensor) -> bool:
    """Whether a tensor has elements of its own along a dimension in which there are channels."""
    dims = range(-tensor.ndim, 0)
    return any(tensor.shape[d] > 1 and tensor.stride(d) > 0 and total.shape[d] > 1 for d in dims)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_SIDES = " ".join(
    f"max_pool{n}d_with_indices max_pool{n}d avg_pool{n}d _adaptive_avg_pool{n}d adaptive_avg_pool{n}d "
    f"adaptive_max_pool{n}d upsample_nearest{n}d _upsample_nearest_exact{n}d reflection_pad{n}d replication_pad{n}d"
    for n in (1, 2, 3)
)
RULES: dict[str, Rule] = {
    **_named(
        moves.same,
        "clone detach alias _to_copy lift_fresh lift_fresh_copy contiguous zeros_like ones_like full_like rand_like "
        "randn_like empty_like",
    ),
    **_named(
        moves.moved,
        "permute transpose t expand unsqueeze squeeze flip repeat pixel_unshuffle",
    ),
    **_named(moves.shuffled_pixels, "pixel_shuffle"),
    **_named(moves.viewed, "view _unsafe_view reshape _reshape_alias"),
    **_named(moves.cut, "slice select split split_with_sizes unbind index index_select roll unfold narrow"),
    **_named(moves.joined, "cat stack"),
    **_named(moves.padded, "constant_pad_nd"),
    **_named(moves.halved, "glu"),
    **_named(
        pointwise,  # as are all that PyTorch tags so
        "copy_ masked_fill masked_fill_ where rsub hardswish hardswish_ _prelu_kernel threshold_ native_dropout "
        "log_sigmoid_forward",
    ),
    **_named(products.convolution, "convolution"),
    **_named(products.linear, "linear"),
    **_named(products.product, "mm addmm bmm baddbmm"),
    **_named(
        batch_norm,
        "native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm "
        "miopen_batch_norm _batch_norm_no_update _batch_norm_with_update",
    ),
    **_named(layer_norm, "native_layer_norm"),
    **_named(group_norm, "native_group_norm"),
    **_named(
        reduction, "mean sum amax amin max min var std var_mean std_mean argmax argmin logsumexp any all prod norm"
    ),
    **_named(reduction, "linalg_vector_norm"),
    **_named(softmax, "_softmax _log_softmax _safe_softmax cumsum cumprod"),
    **_named(spatial, _SIDES + " upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d"),
    **_named(spatial, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    **_named(embedding, "embedding"),
    **_named(made, "empty zeros ones full arange eye scalar_tensor rand randn empty_strided linspace"),
}
