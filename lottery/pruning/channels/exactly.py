"""A run whose numbers can be compared: in float64, and without chance."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lottery.foundations.seeds import seeded
from lottery.pruning.channels.tracing import Run, math_attention, tensors_in


def outputs(net: nn.Module, run: Run, training: bool, double: bool = True) -> list[Tensor]:
    """The tensors that a run of a copy of the network returns, in training or evaluation mode.

    Random masks, as of dropout, are replaced by their expectation. `double` computes in float64 whatever the inputs
    are, which some code refuses.
    """
    net = copy.deepcopy(net).train(training)
    if double:
        net = net.double()
    with seeded(0), torch.no_grad(), math_attention(), _exactly():
        found = [tensor.detach() for tensor in tensors_in(run(net))]
    return [_widened(tensor) for tensor in found] if double else found


@contextmanager
def _exactly() -> Iterator[None]:
    with _Wide(), _Expected():
        yield


class _Wide(TorchFunctionMode):
    """What meets float64 becomes float64, before PyTorch asks whether types agree."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not getattr(func, "__name__", "_").endswith("_"):  # in place, or none of an operation
            args, kwargs = _alike(args, kwargs)
        return func(*args, **kwargs)


class _Expected(TorchDispatchMode):
    """Random masks are their expectation, and float64 stays float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        if name == "bernoulli_":
            chance = args[1] if len(args) > 1 else 0.5  # the default is left out
            return args[0].copy_(chance) if isinstance(chance, Tensor) else args[0].fill_(chance)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if not func._schema.is_mutable:
            args, kwargs = _alike(args, kwargs)
        if name == "_to_copy" and args[0].dtype == torch.float64 and kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _alike(args: Any, kwargs: Any) -> Any:
    kinds = {each.dtype for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
    if torch.float64 in kinds and any(kind.is_floating_point and kind != torch.float64 for kind in kinds):
        return tree_map_only(Tensor, _widened, (args, kwargs))
    return args, kwargs


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
