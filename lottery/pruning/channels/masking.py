"""Channels and masks: the masks that remove channels, and the channels that masks leave."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from lottery.foundations.errors import Refused
from lottery.pruning.channels.carried import CONSUMES
from lottery.pruning.channels.coupling import Coupling, Group
from lottery.pruning.channels.removal import Kept, removed
from lottery.pruning.masks import Masks


def masks(coupling: Coupling, kept: Kept, like: Mapping[str, Tensor]) -> Masks:
    """The masks `like`, without the rows that produce the removed channels and the columns that consume them.

    The network so masked is the same function as the one without these channels, and trains as it does: what biases and
    normalisation make of a channel is read by nothing. Only what has a mask already is masked.

    Raises Refused as `structure` does, and for a removed channel that is read by a weight without a mask.
    """
    found = {name: mask.clone() for name, mask in like.items()}
    for group, gone in removed(coupling, kept):
        if open_ := unmasked(group, like):
            raise Refused(
                f"channels.{group.name}: channels are read by {open_[0]}, which has no mask; prune.include={open_[0]} "
                "gives it one, unless prune.exclude matches it"
            )
        for member in group.members:
            if member.name in found:
                found[member.name].index_fill_(member.axis, member.positions[gone].flatten(), False)
    return found


def unmasked(group: Group, masks: Container[str]) -> list[str]:
    """The weights that read the channels of a group and have no mask: its channels can't be removed by masks."""
    return [member.name for member in group.of(CONSUMES) if member.name not in masks]


def alive(coupling: Coupling, masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The channels of each group that live under masks.

    A channel is dead if nothing reads it: each weight that consumes it has a mask, and the masks keep nothing of its
    columns. It can then be removed, whatever the values of weights, biases and normalisation are or will be trained to.
    One of which the masks keep no row is not dead for that: its bias, or what normalisation makes of a constant, is
    still read. A group may have no channel that lives, where a layer has collapsed.
    """
    found = {}
    for group in coupling.groups:
        lives = torch.zeros(group.size, dtype=torch.bool)
        for member in group.of(CONSUMES):
            if (mask := masks.get(member.name)) is None:
                lives[:] = True
            else:
                columns = mask.cpu().movedim(member.axis, 0).flatten(1).any(1)
                lives |= columns[member.positions].any(1)
        found[group.name] = lives.nonzero().flatten().tolist()
    return found


def left(coupling: Coupling, masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The channels to keep under masks: those that live, or a dead one, since no layer can be without any."""
    return {name: channels or [0] for name, channels in alive(coupling, masks).items()}
