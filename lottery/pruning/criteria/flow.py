"""Criteria of flow: that of gradients while training begins (GraSP), that of signals without any data (SynFlow)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lottery.pruning.batchnorm import as_training_begins
from lottery.pruning.contracts import Evidence, Scores
from lottery.pruning.derivatives import gradient


def grasp(evidence: Evidence, batches: int = 1, temperature: float = 200) -> Scores:
    """Weight x (Hessian x gradient): how much gradient flow is lost with the weight (GraSP, Wang et al. 2020).

    Gradient flow is the squared norm of the gradient. To first order it falls by twice the score when the weight is
    removed: the authors remove the highest of -weight x (Hessian x gradient), which is the same. `temperature` divides
    the network's outputs inside the loss. BatchNorm that has seen no batch yet is as in `snip`. Unlike theirs, the loss
    is that of the first `batches` training batches, not of ten examples of each class, and pruned weights have no part
    in the flow. Raises ValueError for fewer than one batch, a temperature that is not positive, and outputs that can't
    be divided.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature:g}: must be above 0")
    with _cooled(evidence.net, temperature), as_training_begins(evidence.net):
        flow = {name: slope * evidence.masks[name] for name, slope in evidence.gradients(batches).items()}
        product = evidence.hessian_times(flow, batches)
    return {name: weight.detach() * product[name] for name, weight in evidence.weights.items()}


def synflow(evidence: Evidence) -> Scores:
    """|Weight| x its gradient of R, the sum of outputs of a network of absolute values (SynFlow, Tanaka et al. 2020).

    Parameters and floating-point buffers, such as the statistics of BatchNorm, are replaced by their absolute values,
    and the input is the first example of the first batch with ones for its floating-point numbers: no data are seen but
    their shape. It is computed in float64, since R grows exponentially with depth. The authors prune in 100 steps;
    this scores for one. Raises ValueError for a network without floating-point inputs, or that is not called in its
    loss, or that does not run on such inputs.
    """
    args, kwargs = _ones(evidence)

    def total() -> Tensor:
        outputs = pytree.tree_leaves(evidence.net(*args, **kwargs))
        return torch.stack([each.sum() for each in outputs if isinstance(each, Tensor) and each.requires_grad]).sum()

    with _absolute(evidence.net):
        try:
            slopes = gradient(total, evidence.weights)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the network does not run in float64 on an input of ones: {error}") from error
        return {name: weight.detach() * slopes[name] for name, weight in evidence.weights.items()}


@contextmanager
def _cooled(net: nn.Module, temperature: float) -> Iterator[None]:
    """Within the context, the network's outputs are divided; at its end, raises ValueError if there were none."""
    if temperature == 1:
        yield
        return
    said = f"temperature={temperature:g}: divides the network's outputs, but "
    divided = 0

    def divide(_: nn.Module, __: Any, outputs: Any) -> Tensor:
        nonlocal divided
        if not isinstance(outputs, Tensor):
            raise ValueError(f"{said}they are a {type(outputs).__name__}, not one tensor; temperature=1 works")
        divided += 1
        return outputs / temperature

    hook = net.register_forward_hook(divide)
    try:
        yield
    finally:
        hook.remove()
    if not divided:
        raise ValueError(f"{said}the loss is computed without calling the network as a whole; temperature=1 works")


def _ones(evidence: Evidence) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the network is called with for the first batch: of the first example, with ones for floats."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = evidence.net.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True, prepend=True
    )
    try:
        with torch.no_grad():
            for batch in evidence.first(1):
                evidence.run(batch)
    finally:
        hook.remove()
    if not seen:
        raise ValueError("no batch is given to the network as a whole, so that the shape of its inputs is not known")
    floats = [leaf for leaf in pytree.tree_leaves(seen[0]) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not floats:
        raise ValueError("the network's inputs have no floating-point tensor to put ones into, as token ids have none")
    return pytree.tree_map_only(Tensor, _first_of_ones, seen[0])


def _first_of_ones(tensor: Tensor) -> Tensor:
    first = tensor.detach()[:1] if tensor.ndim else tensor.detach()
    return torch.ones_like(first, dtype=torch.float64) if first.is_floating_point() else first


@contextmanager
def _absolute(net: nn.Module) -> Iterator[None]:
    """Within the context, parameters and floating-point buffers have their absolute values, in float64."""
    tensors = [tensor for tensor in (*net.parameters(), *net.buffers()) if tensor.is_floating_point()]
    own = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double().abs()
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
