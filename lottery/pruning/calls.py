"""Calls of a network's layers: what goes into them and what comes out in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import nn


def given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a layer or function works on: `input`, as PyTorch names it, or else the first that it is called with.

    >>> given((1, 2), {}), given((), {"hx": 2, "input": 1}), given((), {"x": 1}), given((), {})
    (1, 1, 1, None)
    """
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values()), None))


class Call(NamedTuple):
    """One call of a layer."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def given(self) -> Any:
        """What the layer works on: its first argument, by position or by keyword; None if there is none."""
        return given(self.args, self.kwargs)


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
