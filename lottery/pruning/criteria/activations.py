"""Criteria that use what a layer is given in a forward pass."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lottery.pruning.calls import Call
from lottery.pruning.contracts import Batch, Evidence, Scores
from lottery.pruning.derivatives import summed


def wanda(evidence: Evidence, batches: int = 1) -> Scores:
    """|Weight| x 2-norm of the input that it multiplies, over `batches` training batches (Wanda, Sun et al. 2024).

    The norm is over all examples and places: of a feature for linear layers and attention, of a channel for
    convolutions, of a row's occurrences for embeddings. The paper compares scores within an output, not in the whole
    layer: its scope is `per_output`. Raises ValueError for fewer than one batch, and for a weight whose inputs can't be
    seen: its layer is of another kind, or is not called itself, as the output layer of MultiheadAttention is not.
    """
    squares, _ = summed(_inputs(evidence, batch) for batch in evidence.first(batches))
    return {
        name: weight.detach().abs() * squares[name].sqrt().to(weight.dtype) for name, weight in evidence.weights.items()
    }


def _inputs(evidence: Evidence, batch: Batch) -> dict[str, Tensor]:
    """Sums of squares of what each weight multiplies in a batch, to be broadcast to the weight."""
    found, weights = {}, evidence.weights
    for name, calls in evidence.watch(batch, _squares).items():
        seen = [each[id(weights[name])] for each in calls if id(weights[name]) in each]
        if not seen or len(seen) < len(calls):
            raise ValueError(
                f"the inputs that {name} multiplies can't be seen; prune.exclude leaves it out, and another criterion "
                "needs no inputs"
            )
        found[name] = sum(seen[1:], seen[0])
    return found


def _squares(call: Call) -> dict[int, Tensor]:
    """Sums of squares of what each weight of the layer multiplies in a call, by the weight's identity.

    They have the weight's number of dimensions, with size 1 along those in which they do not differ.
    """
    layer, first = call.layer, call.given
    if isinstance(layer, nn.MultiheadAttention):
        return _of_attention(layer, call)
    if not isinstance(first, Tensor):
        return {}
    if isinstance(layer, nn.Embedding):  # a row is multiplied by 1 wherever its token is
        counts = first.flatten().bincount(minlength=layer.num_embeddings)
        return {id(layer.weight): counts.double()[:, None]}
    if isinstance(layer, nn.modules.conv._ConvNd):
        return {id(layer.weight): _of_channels(layer, first)}
    if isinstance(layer, nn.RNNBase):  # other weights multiply hidden states
        return {
            id(weight): _of_features(first)
            for name, weight in layer.named_parameters(recurse=False)
            if name in ("weight_ih_l0", "weight_ih_l0_reverse")
        }
    if isinstance(layer, nn.Linear):
        return {id(layer.weight): _of_features(first)}
    return {
        id(weight): _of_features(first)
        for weight in layer.parameters(recurse=False)
        # of an unknown layer, a square weight may be multiplied from either side
        if first.is_floating_point() and weight.ndim == 2 and weight.shape[0] != weight.shape[1] == first.shape[-1]
    }


def _of_features(given: Tensor) -> Tensor:
    rows = given.detach().reshape(-1, given.shape[-1])  # a single vector is one
    return torch.linalg.vector_norm(rows, dim=0, dtype=torch.float64).square()[None]


def _of_channels(layer: nn.modules.conv._ConvNd, given: Tensor) -> Tensor:
    places = layer.weight.ndim - 2
    channels = given.detach().movedim(-1 - places, 0).flatten(start_dim=1)
    squares = torch.linalg.vector_norm(channels, dim=1, dtype=torch.float64).square()
    if layer.transposed:  # its weight is (in, out / groups, ...)
        return squares.view(-1, 1, *[1] * places)
    each = squares.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, dim=0)
    return each.view(*each.shape, *[1] * places)


def _of_attention(layer: nn.MultiheadAttention, call: Call) -> dict[int, Tensor]:
    """Of the weights for queries, keys and values, which lie on each other in one weight if all have one width."""
    given: dict[str, Any] = inspect.signature(nn.MultiheadAttention.forward).bind(
        layer, *call.args, **call.kwargs
    ).arguments  # fmt: skip
    squares = [_of_features(given[name]) for name in ("query", "key", "value")]
    if layer.in_proj_weight is not None:
        return {id(layer.in_proj_weight): torch.cat([each.expand(layer.embed_dim, -1) for each in squares])}
    separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    return {id(weight): each for weight, each in zip(separate, squares, strict=True)}
