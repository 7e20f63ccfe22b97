"""The smaller network: a copy whose parameters and buffers are the gathered ones, and whose layers know their sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lottery.foundations.errors import Refused, describe, nearby
from lottery.pruning.channels.removal import Structure, gathered
from lottery.pruning.channels.sizes import check_rows, resize


def shrunk(net: nn.Module, structure: Structure) -> nn.Module:
    """A copy of the network that has only what the structure keeps; the network itself is left unchanged.

    Tied weights stay tied. Gradients are not copied. Given a network as it is defined, it has the shapes into which the
    state of another one with that structure can be loaded.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> shrunk(net, {"0.weight": {0: [0, 2]}, "0.bias": {0: [0, 2]}, "2.weight": {1: [0, 2]}})[2]
    Linear(in_features=2, out_features=2, bias=True)

    Raises Refused if the structure does not fit the network, or a layer can't have what it keeps.
    """
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    if unknown := [name for name in structure if name not in tensors]:
        raise Refused(f"structure.{unknown[0]}: the network has no such tensor; {nearby(unknown[0], list(tensors))}")
    with torch.no_grad():
        small = gathered({name: tensors[name] for name in structure}, structure)
    rows = {
        id(tensors[name]): kept for name, axes in structure.items() for axis, kept in axes.items() if int(axis) == 0
    }
    for name, layer in net.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):  # what it has is never cut
            continue
        # not by its attribute: a parametrized weight is computed when it is read, which may change buffers
        weight = layer._parameters.get("in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight")
        if kept := rows.get(id(weight)):
            with _named(name, layer):
                check_rows(layer, kept)
    new = {id(tensors[name]): _as(tensors[name], tensor) for name, tensor in small.items()}
    try:
        # whatever refers to a tensor gets the gathered one, and nothing is copied only to be cut
        found = copy.deepcopy(net, dict(new))
    except (RuntimeError, TypeError) as error:
        raise Refused(f"channels: the network can't be copied, and so not shrunk: {describe(error)}") from error
    changed = {id(tensor) for tensor in new.values()}
    for name, layer in found.named_modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if any(id(tensor) in changed for tensor in own):
            with _named(name, layer):
                resize(layer)
    return found


@contextmanager
def _named(name: str, layer: nn.Module) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        where = f"{name or 'the network'} ({type(layer).__name__})"
        raise Refused(f"structure: {where} can't be shrunk to it: {error}") from error


def aliased(structure: Structure, net: nn.Module) -> Structure:
    """The structure with what it says of a tensor under all names that the network's state has for it.

    >>> net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3, bias=False))
    >>> net[2].weight = net[0].weight
    >>> sorted(aliased({"0.weight": {0: [0, 2], 1: [0, 2]}}, net))
    ['0.weight', '2.weight']
    """
    first = {id(tensor): name for name, tensor in (*net.named_parameters(), *net.named_buffers())}
    state = net.state_dict(keep_vars=True)
    return {name: structure[first[id(t)]] for name, t in state.items() if first.get(id(t)) in structure}


def _as(whole: Tensor, small: Tensor) -> Tensor:
    return nn.Parameter(small, whole.requires_grad) if isinstance(whole, nn.Parameter) else small
