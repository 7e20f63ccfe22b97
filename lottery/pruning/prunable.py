"""Prunable: the rule by which a study selects the weights that pruning may remove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lottery.foundations.errors import Refused, nearby
from lottery.pruning import masks


@dataclass(frozen=True)
class Prunable:
    """Selects the weights of linear and convolutional layers, plus those `include` matches, minus those of `exclude`.

    A pattern matches parameter names (`*.in_proj_weight`) or layer types (`LSTM`, which also matches its subclasses).
    A weight shared by several layers counts once, under its first name, by whose layer it is prunable or not; a pattern
    may match any of its names.

    >>> net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    >>> list(Prunable()(net)), list(Prunable(include=("Embedding",), exclude=("2.*",))(net))
    (['1.weight', '2.weight'], ['0.weight', '1.weight'])
    """

    include: tuple[str, ...] = ()
    """patterns of further weights to prune; they match floating-point weights of two or more dimensions, and a full
    parameter name matches one of any shape"""
    exclude: tuple[str, ...] = ()
    """patterns of weights that are never pruned"""

    def __call__(self, net: nn.Module) -> dict[str, Tensor]:
        """The prunable weights by name, in order of definition. Raises Refused for a pattern that changes nothing."""
        chosen = masks.prunable(net)
        if not (self.include or self.exclude):
            return chosen
        weights = list(_weights(net))
        for pattern in self.include:
            chosen |= {weight.name: weight.tensor for weight in _included(weights, pattern)}
        left = {name for pattern in self.exclude for name in _excluded(weights, pattern, chosen)}
        if left and left == chosen.keys():
            raise Refused(f"prune.exclude={_listed(self.exclude)}: leaves nothing to prune")
        return {name: tensor for name, tensor in net.named_parameters() if name in chosen.keys() - left}

    @property
    def all(self) -> Prunable:
        """The same rule without `exclude`."""
        return replace(self, exclude=())

    def left_whole(self, net: nn.Module) -> str | None:
        """A sentence that lists the weights that are never pruned, excluded ones first; None if there are none.

        >>> Prunable().left_whole(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)))
        'never pruned, and not in its density: 0.weight, 50 % of all parameters (prune.include would)'
        """
        pruned, could_be = self(net), self.all(net)
        left = {n: w for n, w in net.named_parameters() if n not in pruned and (w.ndim > 1 or n in could_be)}
        if not left:
            return None
        share = sum(weight.numel() for weight in left.values()) / sum(weight.numel() for weight in net.parameters())
        names = sorted(left, key=lambda name: name not in could_be)
        more = " (prune.include would)" if left.keys() - could_be.keys() else ""
        return f"never pruned, and not in its density: {masks.some(names)}, {100 * share:.3g} % of all parameters{more}"


@dataclass(frozen=True)
class _Weight:
    """A weight that a layer uses, either a parameter or computed from other parameters."""

    name: str
    """its first name, which is also the name of its mask"""
    names: frozenset[str]
    types: frozenset[str]
    """class names, base classes included, of the layers that hold it"""
    tensor: Tensor
    unheld: str | None
    """why a mask can't keep it at zero; None if it can"""

    def matches(self, pattern: str) -> bool:
        return any(fnmatchcase(each, pattern) for each in (*self.names, *self.types))


def _weights(net: nn.Module) -> Iterator[_Weight]:
    names: dict[int, list[str]] = {}
    types: dict[int, set[str]] = {}
    tensors: dict[int, tuple[Tensor, str | None]] = {}
    for path, layer in net.named_modules(remove_duplicate=False):
        for name, tensor, unheld in _of_layer(layer):
            names.setdefault(id(tensor), []).append(f"{path}.{name}".removeprefix("."))
            types.setdefault(id(tensor), set()).update(_types(layer))
            if unheld or id(tensor) not in tensors:
                tensors[id(tensor)] = tensor, unheld
    for key, (tensor, unheld) in tensors.items():
        yield _Weight(names[key][0], frozenset(names[key]), frozenset(types[key]), tensor, unheld)


def _of_layer(layer: nn.Module) -> Iterator[tuple[str, Tensor, str | None]]:
    """Name, tensor and the reason why it can't be masked (or None), for each weight of the layer itself."""
    anew = "its layer computes the weight anew in each forward pass, as weight_norm and other parametrizations do"
    own = dict(layer.named_parameters(recurse=False))
    # the older functions of torch.nn.utils, such as weight_norm, keep a weight's parts in such parameters
    parts = {f"{name}_{part}": name for name in vars(layer) for part in ("orig", "g", "v")}
    made = {parts[name] for name in own if name in parts} | {*getattr(layer, "parametrizations", ())}
    for name, parameter in own.items():
        computed = name in parts or isinstance(layer, ParametrizationList)
        scripted = isinstance(layer, torch.jit.ScriptModule)
        yield name, parameter, anew if computed else "its layer is scripted" if scripted else None
    for name in sorted(made):
        yield name, torch.empty(0, 0), anew  # only its name is read: computing it has side effects (spectral_norm)


def _types(layer: nn.Module) -> set[str]:
    classes = {each.__name__ for each in type(layer).__mro__ if issubclass(each, nn.Module) and each is not nn.Module}
    return classes | {str(getattr(layer, "original_name", type(layer).__name__))}  # a scripted layer's class


def _included(weights: list[_Weight], pattern: str) -> list[_Weight]:
    where = f"prune.include={pattern}"
    found = [weight for weight in weights if weight.matches(pattern)]
    for weight in found:
        if pattern in weight.names and not weight.tensor.is_floating_point():
            raise Refused(f"{where}: {weight.name} holds {str(weight.tensor.dtype)[6:]}, and only floats can be pruned")
    taken = [w for w in found if pattern in w.names or (w.tensor.ndim > 1 and w.tensor.is_floating_point())]
    for weight in taken:
        if weight.unheld:
            raise Refused(f"{where}: masks can't hold {weight.name} at zero, since {weight.unheld}")
    if found and not taken:
        raise Refused(
            f"{where}: matches only {masks.some(weight.name for weight in found)}, which is no floating-point weight "
            "of two or more dimensions; a parameter of one dimension must be named by its whole name"
        )
    if not found:
        raise Refused(f"{where}: no parameter and no type of layer that holds one matches; {_near(pattern, weights)}")
    return taken


def _excluded(weights: list[_Weight], pattern: str, chosen: dict[str, Tensor]) -> list[str]:
    prunable = [weight for weight in weights if weight.name in chosen]
    found = [weight.name for weight in prunable if weight.matches(pattern)]
    if not found:
        raise Refused(f"prune.exclude={pattern}: no prunable weight matches; {_near(pattern, prunable)}")
    return found


def _near(pattern: str, weights: list[_Weight]) -> str:
    known = [w for w in weights if w.tensor.ndim > 1 and w.tensor.is_floating_point() and not w.unheld]
    return nearby(pattern, list(dict.fromkeys([w.name for w in known] + sorted({t for w in known for t in w.types}))))


def _listed(patterns: Iterable[str]) -> str:
    return f"[{','.join(patterns)}]"
