"""Derivatives of a loss with respect to a network's weights, frozen ones included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Weights = Mapping[str, Tensor]
Times = Callable[[Weights], dict[str, Tensor]]
"""A linear map of tensors by weight, such as the product with a Hessian."""

NO_GRADIENT = "the loss has no gradient: nothing that the network computed in evaluation mode can be differentiated"


@contextmanager
def trainable(weights: Weights) -> Iterator[None]:
    """Within the context, frozen weights have gradients like all others."""
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def gradient(loss: Callable[[], Tensor], weights: Weights, twice: bool = False) -> dict[str, Tensor]:
    """The gradient of a scalar, zeros for a weight without influence on it; `twice` keeps the graph to go on from.

    Raises ValueError if the scalar has no graph at all.

    >>> weight = torch.tensor([1.0, 2.0])
    >>> gradient(lambda: weight.square().sum(), {"weight": weight})
    {'weight': tensor([2., 4.])}
    """
    with trainable(weights), torch.enable_grad():
        value = loss()
        if not value.requires_grad:
            raise ValueError(NO_GRADIENT)
        found = torch.autograd.grad(
            value, list(weights.values()), allow_unused=True, materialize_grads=True, create_graph=twice
        )
    return dict(zip(weights, found, strict=True))


def hessian(loss: Callable[[], Tensor], weights: Weights) -> Times:
    """The product of a scalar's Hessian with a vector, as a function that may be called many times.

    The scalar is computed once, and its graph is kept as long as the function. Raises ValueError, now or when it is
    called, for a scalar that can't be differentiated, or not twice.

    >>> weight = torch.tensor([1.0, 2.0])
    >>> times = hessian(lambda: weight[0] ** 2 * weight[1], {"weight": weight})  # 2 w1, 2 w0; 2 w0, 0
    >>> times({"weight": torch.tensor([1.0, 0.0])}), times({"weight": torch.tensor([0.0, 1.0])})
    ({'weight': tensor([4., 2.])}, {'weight': tensor([2., 0.])})
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        first = gradient(loss, weights, twice=True)
    if _ends(first.values()):
        raise ValueError("the loss can't be differentiated twice: a function in it is marked once_differentiable")
    curved = {name: slope for name, slope in first.items() if slope.requires_grad}  # others are constant in all weights

    def times(vector: Weights) -> dict[str, Tensor]:
        if not curved:
            return {name: torch.zeros_like(weight) for name, weight in weights.items()}
        with trainable(weights), torch.enable_grad():
            try:
                found = torch.autograd.grad(
                    list(curved.values()), list(weights.values()), [vector[name] for name in curved],
                    retain_graph=True, allow_unused=True, materialize_grads=True,
                )  # fmt: skip
            except RuntimeError as error:
                raise ValueError(f"the loss can't be differentiated twice: {error}") from error
        return dict(zip(weights, found, strict=True))

    return times


def _ends(tensors: Iterable[Tensor]) -> bool:
    """Whether the graph of a first derivative ends early, at a function whose derivative has none.

    PyTorch leaves an error there for `backward` to run into, but `autograd.grad` goes past it and is silently wrong.
    """
    seen, left = set(), [tensor.grad_fn for tensor in tensors]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False


def summed(found: Iterable[Weights]) -> tuple[dict[str, Tensor], int]:
    """The sum of tensors by name, and of how many, of which one set at a time is in memory. Raises ValueError if none.

    >>> summed({"weight": torch.tensor(value)} for value in (1.0, 4.0))
    ({'weight': tensor(5.)}, 2)
    """
    total: dict[str, Tensor] = {}
    count = 0
    for each in found:
        total = {name: total[name] + tensor if count else tensor for name, tensor in each.items()}
        count += 1
    if not count:
        raise ValueError("there is no training batch to score with")
    return total, count


def averaged(found: Iterable[Weights]) -> dict[str, Tensor]:
    """The mean of tensors by name. Raises ValueError if there are none.

    >>> averaged({"weight": torch.tensor(value)} for value in (1.0, 4.0))
    {'weight': tensor(2.5000)}
    """
    total, count = summed(found)
    return {name: tensor / count for name, tensor in total.items()}
