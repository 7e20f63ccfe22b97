"""Arms: what each pruned round begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lottery.foundations.durations import Steps
from lottery.pruning.masks import Masks
from lottery.rounds.early_bird import Settled
from lottery.rounds.lengths import Length, as_recipe
from lottery.rounds.rewinding import Rewinding, to_start
from lottery.training.flops import Flops
from lottery.training.states import State


def as_found(masks: Masks, rng: torch.Generator) -> Masks:
    """The masks as pruning found them."""
    return masks


@dataclass(frozen=True, eq=False)
class Given:
    """A ticket that was found elsewhere."""

    start: State
    """weights and buffers of the network that it begins with, pruned ones too"""
    masks: Masks
    cost: Flops
    """of all training that it took to find it"""


@dataclass(frozen=True)
class Arm:
    """One way to train the pruned network again; arms of one seed share the dense training."""

    name: str
    weights: Rewinding = to_start
    """what the kept weights are set to"""
    masks: Callable[[Masks, torch.Generator], Masks] = as_found
    """what is done to the masks first, with a generator of the round's own"""
    rewind: Steps = 0
    """the rewinding point, a step of the dense training"""
    first: Steps = 0
    """step of the recipe that a pruned round begins with: learning rate and data order go on from there"""
    length: Length = as_recipe
    """how long a pruned round trains"""
    iterative: bool = True
    """whether each round prunes the network that the round before trained, or the dense one again and again"""
    early: Settled | None = None
    """prune the dense network as it was when its mask had settled (You et al. 2020); None: when it was trained"""
    parent: Arm | None = None
    """the arm whose masks are used; None: its own"""
    given: Given | None = None
    """what takes the place of start weights and of pruning; None: nothing"""

    def __post_init__(self) -> None:
        if self.early and (self.iterative or self.parent or self.given):
            raise ValueError("early: is for arms that prune the dense network themselves: iterative=false, parent=null")
        if self.given and (self.parent or self.rewind):
            raise ValueError("file: a ticket brings its masks and start with it: parent=null, rewind=0")
        if self.parent and self.parent.parent:
            raise ValueError(f"parent={self.parent.name}: it has no masks of its own but those of another arm")
