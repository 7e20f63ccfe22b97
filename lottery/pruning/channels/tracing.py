"""A run of the network in which labels travel with the activations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lottery.foundations.errors import Refused, describe
from lottery.foundations.seeds import seeded
from lottery.pruning.channels.attention import removable
from lottery.pruning.channels.carried import Carried, Operation
from lottery.pruning.channels.rules import follow, unknown
from lottery.pruning.channels.sizes import resizable

Run = Callable[[nn.Module], Any]
"""Uses a network in some way on a batch: a forward pass, a loss."""


def traced(net: nn.Module, run: Run) -> Carried:
    """The labels after one run of a copy of the network in evaluation mode; what the run returns is fixed.

    The network, its hooks and the global random states are left as they are; a hook that keeps what it sees sees this
    run too. Memory is that of a forward pass, and of few labels: a batch of one or two is enough.

    Raises Refused if the network can't be copied, or an operation can't be followed.
    """
    try:
        net = copy.deepcopy(net).eval()
    except (RuntimeError, TypeError) as error:
        raise Refused(f"channels: the network can't be copied, and so not traced: {describe(error)}") from error
    flow = Carried.by(net)
    with seeded(0), torch.no_grad(), math_attention(), _layers(net) as layers, _Following(flow, layers):
        found = run(net)
    for tensor in tensors_in(found):
        flow.fix(tensor, "it is an output of the network")
    for name, layer in net.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):  # its code is compiled, and may have sizes in it
            for tensor in (*layer.parameters(), *layer.buffers()):
                flow.fix(tensor, f"it is in {name or 'a network'}, which is TorchScript")
    return flow


def unused(net: nn.Module, run: Run) -> list[str]:
    """Names of the parameters that no operation of a run uses, neither in evaluation nor in training mode.

    Who reads their channels can't be known: they may lie in a branch that the run's examples do not take. None
    where the run fails in evaluation mode, of which tracing says why. The network is left as it is.
    """
    left = {name for name, each in net.named_parameters() if each.numel() > 1}  # one number reads no channels
    for training in (False, True):
        if left:
            twin = copy.deepcopy(net).train(training)
            using = _Using(twin)
            try:
                with seeded(0), torch.no_grad(), using:
                    run(twin)
            except Exception:  # training may ask for more, as BatchNorm does for a second value
                if not training:
                    return []
            left -= using.names
    return [name for name, _ in net.named_parameters() if name in left]


class _Using(TorchDispatchMode):
    """Collects the names of the parameters that operations are given."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.named = {id(tensor): name for name, tensor in net.named_parameters()}
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _flat([*args, *(kwargs or {}).values()])
        self.names |= {self.named[id(tensor)] for tensor in given if id(tensor) in self.named}
        return func(*args, **(kwargs or {}))


@contextmanager
def math_attention() -> Iterator[None]:
    """Within the context, attention is computed by products of matrices, and not by fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def tensors_in(value: Any, depth: int = 8) -> Iterator[Tensor]:
    """The tensors in whatever a run returned.

    >>> [len(tensor) for tensor in tensors_in({"loss": torch.zeros(1), "all": [torch.zeros(2), (torch.zeros(3),)]})]
    [1, 2, 3]
    """
    if isinstance(value, Tensor):
        yield value
    elif depth:
        if isinstance(value, Mapping):
            inside = list(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            inside = list(value)
        elif is_dataclass(value) and not isinstance(value, type):
            inside = [getattr(value, each.name) for each in fields(value)]
        else:
            inside = list(getattr(value, "__dict__", {}).values()) if not isinstance(value, type | nn.Module) else []
        for each in inside:
            yield from tensors_in(each, depth - 1)


@contextmanager
def _layers(net: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Within the context, the layers that are being called, outermost first. The network is a copy: hooks stay."""
    stack: list[tuple[str, nn.Module]] = []
    for name, module in net.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(lambda module, _, name=name: stack.append((name, module)), prepend=True)
            module.register_forward_hook(lambda *_: stack.pop() and None, always_call=True)
    yield stack


class _Function(TorchFunctionMode):
    """Knows which function of PyTorch was called last: chunk and split are one operation, but not one meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.called = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, self.called = self.called, getattr(func, "__name__", "")
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.called = before


class _Following(TorchDispatchMode):
    """Lets labels follow each operation."""

    def __init__(self, flow: Carried, layers: list[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.flow, self.layers, self.function = flow, layers, _Function()

    def __enter__(self) -> Any:
        self.function.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.function.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        layer, module = self.layers[-1] if self.layers else ("", None)
        arguments = func._schema.arguments
        given = {each.name: each.default_value for each in arguments if each.has_default_value()}
        given |= dict(zip((each.name for each in arguments), args, strict=False)) | kwargs
        op = Operation(
            func, func.overloadpacket.__name__, args, kwargs, given, list(_flat(given.values())), list(_flat([found])),
            layer, module is not None and removable(module), self.function.called == "chunk",
        )  # fmt: skip
        try:
            if any(not tensor.numel() for tensor in (*op.tensors, *op.results[:1]) if not _joins(op, tensor)):
                unknown(self.flow, op, "it is given nothing or gives nothing")
            elif module is None or resizable(module):
                follow(self.flow, op)
            else:
                unknown(self.flow, op, f"{type(module).__name__} keeps its channels")
        except Exception as error:
            raise Refused(f"channels: {op.why('an operation can not be followed')}: {describe(error)}") from error
        return found


def _joins(op: Operation, tensor: Tensor) -> bool:
    """Whether a tensor without elements is joined to others of any shape, an old exception."""
    return op.name == "cat" and tensor.ndim == 1 < op.results[0].ndim


def _flat(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)
