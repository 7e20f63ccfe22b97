"""How a project runs its networks: the calls of its modules in a step of validation and of training, and their inputs.

A LightningModule is no function of one batch: its steps call it, or parts of it, and make a loss of what these give.
Each such call is a network on inputs of its own. Channels are followed inside it; what it is given and gives is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seeded
from lottery.pruning.channels.tracing import tensors_in

EXAMPLES = 2
"""Examples that a call is cut to where its tensors have them along their first dimension."""


@dataclass(frozen=True)
class Call:
    """A part of a module that was called, and what it was given."""

    path: str
    """of the part in the module; empty if it is the module itself"""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    examples: int | None = None
    """how many there are along the first dimension of all its tensors; None if that is not known"""

    def __call__(self, net: nn.Module) -> Any:
        """Calls the same part of a module with the same."""
        args, kwargs = tree_map_only(Tensor, torch.clone, (self.args, self.kwargs))  # some work in place
        return net.get_submodule(self.path)(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        return [each for each in tree_flatten((self.args, self.kwargs))[0] if isinstance(each, Tensor)]

    @property
    def length(self) -> int | None:
        """The number of examples along the first dimension of all its tensors; None if they differ or are none."""
        lengths = {len(tensor) if tensor.ndim else 0 for tensor in self.tensors}
        return lengths.pop() or None if len(lengths) == 1 else None

    def with_each(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The call with all its tensors changed."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    @property
    def kind(self) -> tuple[Any, ...]:
        """The same for calls of one part with inputs of the same shapes."""
        leaves, spec = tree_flatten((self.args, self.kwargs))
        return self.path, str(spec), *(e.shape if isinstance(e, Tensor) else type(e) for e in leaves)


def calls_of(module: nn.Module, names: Container[str]) -> list[Call]:
    """A list of the outermost calls of parts with one of the named weights; it grows with each call from now on."""
    weights = {id(weight) for name, weight in module.named_parameters() if name in names}
    found: list[Call] = []
    inside: list[str] = []

    def watched(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return forward(*args, **kwargs)
            found.append(Call(path, args, kwargs).with_each(lambda tensor: tensor.detach().clone()))
            inside.append(path)
            try:
                return forward(*args, **kwargs)
            finally:
                inside.pop()

        return called

    for path, part in module.named_modules():
        # not by hooks: some call self.forward(...)
        if not isinstance(part, torch.jit.ScriptModule) and any(id(weight) in weights for weight in part.parameters()):
            part.forward = watched(path, part.forward)
    return found


def few(call: Call, net: nn.Module) -> Call:
    """The call on two examples, if it gives for these what it gives for them among all; else as it is.

    The network must be on the CPU, in evaluation mode.
    """
    call = call.with_each(Tensor.cpu)
    if not (length := call.length):
        return call
    which = torch.arange(EXAMPLES) % length
    cut = replace(call.with_each(lambda tensor: tensor[which]), examples=EXAMPLES)
    try:
        every, two = (_given(net, each) for each in (call, cut))
    except Exception:  # a user's module may raise anything, such as for a batch that is no longer 16 long
        return call
    alike = len(every) == len(two) > 0 and all(
        one.ndim > 0 and len(one) == length and _close(one[which], other) for one, other in zip(every, two, strict=True)
    )
    return cut if alike else call


def _given(net: nn.Module, call: Call) -> list[Tensor]:
    with torch.no_grad(), seeded(0):
        return list(tensors_in(call(net)))


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


@dataclass(frozen=True)
class Calls:
    """The calls of a module's steps, each kind once."""

    module: nn.Module
    """of the same class, on the CPU and in evaluation mode"""
    evaluated: tuple[Call, ...]
    """those of validation_step, or of training_step if it has none"""
    trained: tuple[Call, ...]
    """what training_step calls besides"""

    @classmethod
    def among(cls, validated: Iterable[Call], trained: Iterable[Call], net: nn.Module) -> Calls:
        """The kinds among all calls of a module like `net`. Raises Refused if there are none."""
        evaluated = {call.kind: call for call in (few(each, net) for each in validated)}
        others = {call.kind: call for call in (few(each, net) for each in trained)}
        if not (first := evaluated or others):
            raise Refused(cant(net, "its steps call no part of it that holds a prunable weight"))
        return cls(net, tuple(first.values()), tuple(call for kind, call in others.items() if kind not in first))

    @property
    def every(self) -> tuple[Call, ...]:
        return *self.evaluated, *self.trained

    def run(self, net: nn.Module) -> list[Any]:
        """Runs all of them on a module."""
        return [call(net) for call in self.every]

    @property
    def network(self) -> Call:
        """The only call of validation, one of a part that takes tensors. Raises Refused if it is not that."""
        call, *others = self.evaluated
        if others:
            parts = list(dict.fromkeys(f"self.{each.path}" if each.path else "self" for each in self.evaluated))
            how = "one by one" if len(parts) > 1 else "on inputs of several kinds"
            raise Refused(cant(self.module, f"validation_step calls {', '.join(parts)} {how}"))
        name = call.path or "its forward"
        if call.kwargs or not call.args or len(call.tensors) < len(call.args):
            raise Refused(cant(self.module, f"{name} takes something else than tensors by position"))
        if call.examples is None:
            raise Refused(
                cant(self.module, f"what {name} gives for an example of a batch can't be told from that for others")
            )
        return call


def cant(module: nn.Module, why: str) -> str:
    """The sentence that says how a module must be for its network to be found."""
    return (
        f"model: how the network of {type(module).__name__} runs can't be told: {why}; give it a forward(inputs) that "
        "is all of the network, and call self(inputs) in training_step and validation_step"
    )
