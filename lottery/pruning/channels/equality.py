"""The proof by example: the masked network and the one without the channels compute the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lottery.foundations.errors import Refused, describe
from lottery.foundations.seeds import generator
from lottery.pruning.channels.coupling import Coupling
from lottery.pruning.channels.exactly import outputs
from lottery.pruning.channels.masking import masks as channel_masks
from lottery.pruning.channels.masking import unmasked
from lottery.pruning.channels.removal import Kept, half, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.channels.tracing import Run
from lottery.pruning.masks import apply_

ROUNDING = 1e-8
"""The largest relative difference that is taken for rounding in float64."""

CLOSE = 1e-5
"""The same in a network's own precision, of a network in use; if rounding adds up to more, float64 decides."""

COARSE = 1e-4
"""The same in a network's own precision, for what can't run in float64."""

NOISE = 64
"""How many times a precision's epsilon is taken for zero, where nothing but rounding is left of an output."""


def without(net: nn.Module, coupling: Coupling, kept: Kept, masks: Mapping[str, Tensor], run: Run) -> nn.Module:
    """The network without the channels that its groups do not keep, after a proof that it is the masked network.

    Both are compared by `same_function` with other biases and parameters of normalisation, since zeros, as at an
    initialisation, would hide that they are read; and then as they are, in evaluation mode. `masks` are those of all
    weights that may have one.

    Raises Refused if they are not the same function, with the group of channels that is at fault.
    """
    masked = _masked(net, channel_masks(coupling, kept, masks))
    small = shrunk(masked, structure(coupling, kept))
    try:
        _tried(net, coupling, kept, masks, run)
        _as_they_are(masked, small, run)
    except Refused as error:
        at = next((name for name in kept if _fault(net, coupling, {name: kept[name]}, masks, run)), None)
        raise Refused(f"channels{f'.{at}' if at else ''}: can't be removed: {error}") from error
    return small


def proven(net: nn.Module, coupling: Coupling, masks: Mapping[str, Tensor], run: Run) -> Coupling:
    """The coupling without the groups that can not be removed after all, as where code has their number written down.

    Half of each group is removed and compared, all at once and, unless they are the same function, group by group.

    Raises Refused if groups that can be removed alone can't be together.
    """
    groups = [group for group in coupling.groups if not unmasked(group, masks)]
    why = {
        group.name: f"its consumer {unmasked(group, masks)[0]} has no mask"
        for group in coupling.groups
        if group not in groups
    }
    if _fault(net, coupling, half(groups), masks, run):
        found = {group.name: _fault(net, coupling, half([group]), masks, run) for group in groups}
        why |= {name: fault for name, fault in found.items() if fault}
        groups = [group for group in groups if not found[group.name]]
        if fault := _fault(net, coupling, half(groups), masks, run):
            raise Refused(f"channels: groups that can be removed alone can't be together: {fault}")
    fixed = {name: dict(axes) for name, axes in coupling.fixed.items()}
    for group in coupling.groups:
        for member in group.members if group.name in why else ():
            fixed.setdefault(member.name, {}).setdefault(member.axis, why[group.name])
    return replace(coupling, groups=tuple(groups), fixed=fixed)


def same_function(masked: nn.Module, small: nn.Module, run: Run) -> float:
    """The largest difference between what a run gives for two networks, in evaluation and in training mode.

    It is relative to the largest output, or absolute if that is zero; whole numbers and truth values are equal or not.
    Both are computed in float64, or in their own precision if the run can't be. Random masks, as of dropout, are
    replaced by their expectation, and other random numbers are the same as long as their number is. Both networks are
    left unchanged.

    Raises Refused if one differs from the other by more than rounding, or fails.
    """
    return max(_difference(masked, small, run, training) for training in (False, True))


def _as_they_are(masked: nn.Module, small: nn.Module, run: Run) -> None:
    """Raises Refused if one differs from the other in use. In 32 bits that is known in a third of float64's time."""
    try:
        _difference(masked, small, run, training=False, double=False, rounding=CLOSE, noise=0)
    except Refused:
        _difference(masked, small, run, training=False)


def _difference(
    masked: nn.Module,
    small: nn.Module,
    run: Run,
    training: bool,
    double: bool = True,
    rounding: float = ROUNDING,
    noise: float = NOISE,
) -> float:
    mode = "training" if training else "evaluation"
    try:
        first = outputs(masked, run, training, double)
    except Exception:  # a network may compute in 32 bits only
        double, rounding = False, COARSE
        try:
            first = outputs(masked, run, training, double)
        except Exception as error:
            raise Refused(f"the network itself fails in {mode} mode: {describe(error)}") from error
    try:
        second = outputs(small, run, training, double)
    except Exception as error:
        raise Refused(f"without them the network fails in {mode} mode: {describe(error)}") from error
    whole, left = ([list(tensor.shape) for tensor in found] for found in (first, second))
    if whole != left:
        raise Refused(f"without them the network's outputs in {mode} mode have the shapes {left}, not {whole}")
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        if not one.numel():
            continue
        if not (one.is_floating_point() or one.is_complex()):
            if differ := int((one != other).sum()):
                raise Refused(
                    f"without them the network is another function: in {mode} mode {differ} of {one.numel()} numbers "
                    f"of type {str(one.dtype).removeprefix('torch.')} that it gives differ"
                )
            continue
        apart = float((one - other).abs().max())
        difference = apart / (float(one.abs().max()) or 1.0)
        if not difference <= rounding:  # nor if it is none at all
            if apart <= min(noise * torch.finfo(one.dtype).eps, rounding):
                continue
            raise Refused(
                f"without them the network is another function: in {mode} mode its outputs differ by "
                f"{difference:.2g} of the largest, and at most {rounding:g} is rounding"
            )
        largest = max(largest, difference)
    return largest


def _masked(net: nn.Module, masks: Mapping[str, Tensor], perturbed: bool = False) -> nn.Module:
    net = copy.deepcopy(net)
    if perturbed:
        _perturb_(net)
    apply_(dict(net.named_parameters()), masks)
    return net


def _perturb_(net: nn.Module) -> None:
    """Other biases, scales and parameters of normalisation, and other weights where all are zero."""
    rng = generator(0)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and (tensor.numel() == max(tensor.shape, default=1) or not tensor.any()):
                drawn = torch.rand(tensor.shape, generator=rng).to(tensor)
                # buffers only grow: there are variances among them
                tensor.mul_(0.75 + drawn / 2).add_(
                    0.2 * drawn - 0.1 if isinstance(tensor, nn.Parameter) else 0.1 * drawn
                )


def _tried(net: nn.Module, coupling: Coupling, kept: Kept, masks: Mapping[str, Tensor], run: Run) -> None:
    masked = _masked(net, channel_masks(coupling, kept, masks), perturbed=True)
    same_function(masked, shrunk(masked, structure(coupling, kept)), run)


def _fault(net: nn.Module, coupling: Coupling, kept: Kept, masks: Mapping[str, Tensor], run: Run) -> str | None:
    try:
        _tried(net, coupling, kept, masks, run)
    except Refused as error:
        return str(error)
    return None
