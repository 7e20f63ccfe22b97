"""Calls of a network's layers: what goes into them and what comes out in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a layer."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


def holders(net: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Each of the named parameters with each layer that holds it: several where a weight is shared.

    >>> net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    >>> net[1].weight = net[0].weight
    >>> [(name, type(layer).__name__) for name, layer in holders(net, ["0.weight"])]
    [('0.weight', 'Embedding'), ('0.weight', 'Linear')]
    """
    wanted = set(names)
    known = {id(parameter): name for name, parameter in net.named_parameters() if name in wanted}
    for layer in net.modules():
        for parameter in layer.parameters(recurse=False):
            if id(parameter) in known:
                yield known[id(parameter)], layer


@contextmanager
def watched(net: nn.Module, names: Iterable[str], see: Callable[[Call], Any]) -> Iterator[dict[str, list[Any]]]:
    """Within the context, what `see` makes of every call of a layer that holds a named parameter, by parameter.

    `see` is called at once, since what a layer was given may be changed in place afterwards.
    """
    found: dict[str, list[Any]] = {}
    with ExitStack() as hooks:
        for name, layer in holders(net, names):
            seen = found.setdefault(name, [])
            handle = layer.register_forward_hook(
                lambda layer, args, kwargs, output, seen=seen: seen.append(see(Call(layer, args, kwargs, output))),
                with_kwargs=True,
            )
            hooks.callback(handle.remove)
        yield found
