"""The proof by example: the masked network and the one without the channels compute the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lottery.foundations.errors import Refused, describe
from lottery.foundations.seeds import generator, seeded
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channels.masking import masks as channel_masks
from lottery.pruning.channels.removal import Kept, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.channels.tracing import Run, math_attention, tensors_in
from lottery.pruning.masks import apply_


def without(
    net: nn.Module, coupling: Coupling, kept: Kept, masks: Mapping[str, Tensor], run: Run, tolerance: float = 1e-4
) -> nn.Module:
    """The network without the channels that its groups do not keep, after a proof that it is the masked network.

    Both are compared by `same_function`, as they are and once more with other biases and parameters of normalisation:
    zeros, as at an initialisation, would hide that they are read. `masks` are those of all weights that may have one.

    Raises Refused if they are not the same function, with the group of channels that is at fault.
    """
    left, by = structure(coupling, kept), channel_masks(coupling, kept, masks)
    masked = _masked(net, by)
    small = shrunk(masked, left)
    try:
        same_function(masked, small, run, tolerance)
        other = _masked(_perturbed(net), by)
        same_function(other, shrunk(other, left), run, tolerance)
    except Refused as error:
        at = _at_fault(_perturbed(net), coupling, kept, masks, run, tolerance)
        raise Refused(f"channels{f'.{at}' if at else ''}: can't be removed: {error}") from error
    return small


def same_function(masked: nn.Module, small: nn.Module, run: Run, tolerance: float = 1e-4) -> float:
    """The largest difference between what a run gives for two networks, in evaluation and in training mode.

    It is relative to the largest output, or absolute if that is less than one. Random masks, as of dropout, are
    replaced by their expectation, and other random numbers are the same as long as their number is. Both networks are
    left unchanged.

    Raises Refused if one differs from the other by more than `tolerance`, or fails.
    """
    largest = 0.0
    for training in (False, True):
        mode = "training" if training else "evaluation"
        try:
            first = _ran(masked, run, training)
        except Exception as error:
            raise Refused(f"the network itself fails in {mode} mode: {describe(error)}") from error
        try:
            second = _ran(small, run, training)
        except Exception as error:
            raise Refused(f"without them the network fails in {mode} mode: {describe(error)}") from error
        shapes = [[list(tensor.shape) for tensor in found] for found in (first, second)]
        if shapes[0] != shapes[1]:
            raise Refused(
                f"without them the network's outputs in {mode} mode have the shapes {shapes[1]}, not {shapes[0]}"
            )
        for one, other in zip(first, second, strict=True):
            if one.is_floating_point() and one.numel():
                scale = max(1.0, float(one.abs().max()))
                difference = float((one - other).abs().max()) / scale
                if not difference <= tolerance:
                    raise Refused(
                        f"without them the network is another function: in {mode} mode its outputs differ by "
                        f"{difference:.2g} of {scale:.2g}, and at most {tolerance:g} of that is rounding"
                    )
                largest = max(largest, difference)
    return largest


class _Expected(TorchDispatchMode):
    """Random masks of dropout are replaced by their expectation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "bernoulli_" and len(args) > 1:
            return args[0].copy_(args[1]) if isinstance(args[1], Tensor) else args[0].fill_(args[1])
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


def _ran(net: nn.Module, run: Run, training: bool) -> list[Tensor]:
    net = copy.deepcopy(net).train(training)
    with seeded(0), torch.no_grad(), math_attention(), _Expected():
        found = [tensor.detach() for tensor in tensors_in(run(net))]
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in found]


def _masked(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    net = copy.deepcopy(net)
    apply_(dict(net.named_parameters()), masks)
    return net


def _perturbed(net: nn.Module) -> nn.Module:
    """A copy with other biases and parameters of normalisation, and other weights where all are zero."""
    net, rng = copy.deepcopy(net), generator(0)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and (tensor.ndim < 2 or not tensor.any()):
                drawn = torch.rand(tensor.shape, generator=rng).to(tensor)
                # by a factor and, where variances could become negative, by nothing else
                tensor.mul_(0.75 + drawn / 2)
                if isinstance(tensor, nn.Parameter):
                    tensor.add_(0.2 * drawn - 0.1)
                else:
                    tensor.add_(0.1 * drawn)
    return net


def _at_fault(
    net: nn.Module, coupling: Coupling, kept: Kept, masks: Mapping[str, Tensor], run: Run, tolerance: float
) -> str | None:
    """The first group that makes a difference by itself; None if only several together do."""
    for name, channels in kept.items():
        one = {name: channels}
        masked = _masked(net, channel_masks(coupling, one, masks))
        try:
            same_function(masked, shrunk(masked, structure(coupling, one)), run, tolerance)
        except Refused:
            return name
    return None
