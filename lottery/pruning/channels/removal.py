"""Removing channels: the structure that is left, as data, and tensors gathered by it and spread again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lottery.foundations.errors import Refused, nearby
from lottery.pruning.channels.coupling import Coupling, Group

Kept = Mapping[str, Sequence[int]]
"""The channels that a group keeps, by group; a group that is not named keeps all."""

Structure = Mapping[str, Mapping[int, Sequence[int]] | Mapping[str, Sequence[int]]]
"""The positions kept along each axis that loses some, by parameter or buffer; JSON makes texts of the axes."""


def structure(coupling: Coupling, kept: Kept) -> dict[str, dict[int, list[int]]]:
    """The positions that each parameter and buffer keeps when the groups keep these channels, as plain data.

    Raises Refused for a group that is unknown or keeps nothing, and for a channel that is out of range or given twice.
    """
    lost: dict[tuple[str, int, int], set[int]] = {}
    for group, gone in removed(coupling, kept):
        for member in group.members:
            positions = member.positions[gone].flatten().tolist()
            lost.setdefault((member.name, member.axis, member.length), set()).update(positions)
    found: dict[str, dict[int, list[int]]] = {}
    for (name, axis, length), gone_from in lost.items():
        found.setdefault(name, {})[axis] = [position for position in range(length) if position not in gone_from]
    return found


def shapes(coupling: Coupling, kept: Kept, whole: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The shapes that `structure` leaves of those of the whole network, by parameter or buffer. Raises as it does.

    A position of an axis is one channel's alone, and so their number is all that counts.
    """
    found = {name: list(shape) for name, shape in whole.items()}
    for group, gone in removed(coupling, kept):
        widths = {(member.name, member.axis): member.positions.shape[1] for member in group.members}  # roles may share
        for (name, axis), width in widths.items():
            found[name][axis] -= width * len(gone)
    return found


def half(groups: Sequence[Group]) -> dict[str, list[int]]:
    """Every second channel of each group: not the first half, which code with numbers might spare."""
    return {group.name: list(range(0, group.size, 2)) for group in groups}


def removed(coupling: Coupling, kept: Kept) -> list[tuple[Group, list[int]]]:
    """The groups that lose channels, with those that they lose, in order. Raises Refused as `structure` does."""
    groups = {group.name: group for group in coupling.groups}
    found = []
    for name, channels in kept.items():
        if name not in groups:
            why = (
                f"; its axis {next(iter(axes))} is fixed: {next(iter(axes.values()))}"
                if (axes := coupling.fixed.get(name))
                else ""
            )
            raise Refused(f"channels.{name}: there is no such group of channels{why}; {nearby(name, list(groups))}")
        size, chosen = groups[name].size, list(channels)
        if not chosen:
            raise Refused(f"channels.{name}: none of {size} channels is kept; a group must keep at least one")
        if wrong := [c for c in chosen if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < size]:
            raise Refused(f"channels.{name}: keeps channel {wrong[0]!r}, but there are {size}, from 0 to {size - 1}")
        if len(set(chosen)) < len(chosen):
            twice = next(channel for channel in chosen if chosen.count(channel) > 1)
            raise Refused(f"channels.{name}: keeps channel {twice} twice")
        if gone := sorted(set(range(size)) - set(chosen)):
            found.append((groups[name], gone))
    return sorted(found, key=lambda each: list(groups).index(each[0].name))


def gathered(tensors: Mapping[str, Tensor], structure: Structure) -> dict[str, Tensor]:
    """The kept positions of tensors by name, such as a network's state or an optimizer's moments.

    Tensors that the structure does not name are the same objects, and a name that it has beyond them is passed over.

    >>> gathered({"fc.weight": torch.tensor([[1, 2, 3], [4, 5, 6]])}, {"fc.weight": {1: [0, 2]}})
    {'fc.weight': tensor([[1, 3],
            [4, 6]])}

    Raises Refused for an axis or a position that a tensor does not have.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        for axis, positions in _axes(name, tensor, structure):
            found[name] = found[name].index_select(axis, positions.to(tensor.device))
    return found


def spread(small: Mapping[str, Tensor], like: Mapping[str, Tensor], structure: Structure) -> dict[str, Tensor]:
    """The inverse of `gathered`: small tensors at their places in tensors like `like`, which has the removed ones.

    >>> like = {"fc.weight": torch.tensor([[1, 2, 3], [4, 5, 6]])}
    >>> spread({"fc.weight": torch.tensor([[7, 8], [9, 0]])}, like, {"fc.weight": {1: [0, 2]}})
    {'fc.weight': tensor([[7, 2, 8],
            [9, 5, 0]])}

    Raises Refused for a tensor that has no like, and for one that has not the shape which the structure leaves.
    """
    found = dict(small)
    for name, tensor in small.items():
        if name not in like:
            raise Refused(f"structure: there is no tensor {name} to spread one like it")
        axes = _axes(name, like[name], structure)
        shape = list(like[name].shape)
        for axis, positions in axes:
            shape[axis] = len(positions)
        if list(tensor.shape) != shape:
            raise Refused(f"structure: leaves {name} the shape {shape}, and it has {list(tensor.shape)}")
        found[name] = _spread(tensor, like[name].to(tensor), axes)
    return found


def _spread(small: Tensor, whole: Tensor, axes: Sequence[tuple[int, Tensor]]) -> Tensor:
    if not axes:
        return small
    (axis, positions), *others = axes
    positions = positions.to(small.device)
    return whole.index_copy(axis, positions, _spread(small, whole.index_select(axis, positions), others))


def _axes(name: str, tensor: Tensor, structure: Structure) -> list[tuple[int, Tensor]]:
    """The axes of a tensor that lose positions, with those they keep."""
    found = []
    for key, positions in structure.get(name, {}).items():
        axis = int(key)
        if not 0 <= axis < tensor.ndim:
            raise Refused(f"structure.{name}: has an axis {axis}, but the tensor has {tensor.ndim} dimensions")
        size = tensor.shape[axis]
        if not positions or min(positions) < 0 or max(positions) >= size or len(set(positions)) < len(positions):
            raise Refused(
                f"structure.{name}: axis {axis} keeps {len(positions)} positions, up to {max(positions, default=0)}, "
                f"which must be different ones of {size}"
            )
        found.append((axis, torch.tensor(list(positions))))
    return found
