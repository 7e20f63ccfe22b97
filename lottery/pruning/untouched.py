"""Untouched: what user code must leave of a network as it found it, and a comparison that says what it did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(net: nn.Module, whose: str) -> Iterator[None]:
    """Within the context, nothing changes the network: ValueError with the first of what did, and `whose` doing it is.

    >>> net = nn.Linear(2, 1)
    >>> with untouched(net, "criterion mine"):
    ...     _ = net.weight.data.mul_(0.5)
    Traceback (most recent call last):
    ValueError: criterion mine: changes weight of the network, which it must leave as it is
    """
    begun = copies(of_network(net))
    yield
    if changed := unlike(begun, of_network(net)):
        raise ValueError(f"{whose}: changes {changed[0]}, which it must leave as it is")


def of_network(net: nn.Module) -> dict[str, object]:
    """Parameters and buffers, and whether they take gradients, by what each is called in a sentence."""
    found: dict[str, object] = {}
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        found[f"{name} of the network"] = tensor.detach()
        found[f"whether {name} takes gradients"] = tensor.requires_grad
    return found


def copies(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with copies of the tensors."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in found.items()}


def unlike(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """What differs between two such collections, what is only in one of them included; NaN is equal to NaN."""
    return [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]


def _same(one: object, other: object) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other if isinstance(one, Tensor) or isinstance(other, Tensor) else one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
