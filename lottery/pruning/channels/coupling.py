"""Coupled channels of a network: groups of channels, and what each of them takes with it, as data.

A channel is a row of the weight that produces it, an element of each parameter of normalisation, and a column of each
weight that consumes it (the groups of Fang et al. 2023, DepGraph, found by running the network).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lottery.pruning.channels.carried import CONSUMES, NORMALISES, PRODUCES, Carried
from lottery.pruning.channels.tracing import Run, traced


@dataclass(frozen=True, eq=False)
class Member:
    """What the channels of a group are in one parameter or buffer."""

    name: str
    axis: int
    role: str
    """`produces` (rows, biases), `normalises` (an element for each channel), or `consumes` (columns)"""
    positions: Tensor
    """where each channel lies along the axis, (size of the group, positions of each channel)"""
    length: int
    """of the axis"""


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one kind, any of which can be removed as long as one is left."""

    name: str
    """the first weight that produces them"""
    size: int
    members: tuple[Member, ...]

    def of(self, role: str) -> tuple[Member, ...]:
        """The members in a role."""
        return tuple(member for member in self.members if member.role == role)


@dataclass(frozen=True, eq=False)
class Coupling:
    """All groups of a network, in the order in which it defines what produces them."""

    groups: tuple[Group, ...]
    fixed: Mapping[str, Mapping[int, str]]
    """why channels along an axis can't be removed, by parameter and axis; only some of the axis where the others can"""

    def group(self, name: str) -> Group:
        """The group of a name. Raises KeyError if there is none."""
        return next((group for group in self.groups if group.name == name), None) or _none(name)


def coupled(net: nn.Module, run: Run) -> Coupling:
    """The groups of channels of a network, by what happens to them in a run.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = coupled(net, lambda net: net(torch.zeros(1, 4)))
    >>> [(group.name, group.size) for group in found.groups]
    [('0.weight', 3)]
    >>> [(member.name, member.axis, member.role) for member in found.groups[0].members]
    [('0.weight', 0, 'produces'), ('0.bias', 0, 'produces'), ('2.weight', 1, 'consumes')]
    >>> found.fixed["2.weight"]
    {0: 'it is an output of the network'}

    The network is left unchanged. Raises Refused as `traced` does.
    """
    flow = traced(net, run)
    order = {name: index for index, name in enumerate(flow.shapes)}
    axes = sorted(flow.axes, key=lambda each: (order[each[0]], each[1]))
    groups: list[Group] = []
    reasons: dict[tuple[str, int], str] = {}
    for kind, positions in _alike(flow, axes):
        members = _members(flow, [axes[index] for index in kind], positions)
        roles = {member.role for member in members}
        why = (
            "nothing reads it" if CONSUMES not in roles
            else "no weight produces it" if PRODUCES not in roles
            else "all of it goes together" if len(positions) == 1
            else None
        )  # fmt: skip
        if why:
            reasons |= {(member.name, member.axis): why for member in members}
        else:
            groups.append(Group(_name(members, groups), len(positions), members))
    fixed: dict[str, dict[int, str]] = {}
    for name, axis in axes:
        reason = reasons.get((name, axis)) or _reason(flow, flow.axes[name, axis])
        if reason and flow.shapes[name][axis] > 1:
            fixed.setdefault(name, {})[axis] = reason
    return Coupling(tuple(groups), fixed)


def _alike(flow: Carried, axes: list[tuple[str, int]]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Channels that lie along the same axes: the axis of each of their positions, and their positions, by channel."""
    sizes = torch.tensor([len(flow.axes[key]) for key in axes], dtype=torch.long)
    labels = flow.labels.roots(torch.cat([torch.zeros(0, dtype=torch.long), *(flow.axes[key] for key in axes)]))
    along = torch.arange(len(axes)).repeat_interleave(sizes)
    positions = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    by = labels.argsort(stable=True)
    by = by[labels[by] > 0]  # the fixed ones come first
    ends = labels[by].unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    along_by, positions_by = along[by].tolist(), positions[by].tolist()
    kinds: dict[tuple[int, ...], list[list[int]]] = {}
    for start, end in zip([0, *ends], ends, strict=False):
        kinds.setdefault(tuple(along_by[start:end]), []).append(positions_by[start:end])
    for kind, channels in kinds.items():
        yield kind, torch.tensor(channels)


def _members(flow: Carried, along: list[tuple[str, int]], positions: Tensor) -> tuple[Member, ...]:
    counts = Counter(along)  # of each axis, in order
    parts = positions.split(list(counts.values()), 1)
    return tuple(
        Member(*key, role, part, flow.shapes[key[0]][key[1]])
        for key, part in zip(counts, parts, strict=True)
        for role in _roles(flow.roles[key])
    )


def _roles(given: set[str]) -> list[str]:
    """A weight that is used twice may be a producer and a consumer along one axis."""
    return [role for role in (PRODUCES, CONSUMES) if role in given] or [NORMALISES]


def _name(members: tuple[Member, ...], groups: list[Group]) -> str:
    first = next(member.name for member in members if member.role == PRODUCES)
    count = sum(group.name.partition(":")[0] == first for group in groups)
    return f"{first}:{count + 1}" if count else first


def _reason(flow: Carried, labels: Tensor) -> str | None:
    fixed = labels[flow.labels.roots(labels) == 0]
    return flow.labels.reason(int(fixed[0])) if len(fixed) else None


def _none(name: str) -> Group:
    raise KeyError(name)
