"""Arms: how a pruned round's weights and masks are set before it trains."""

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
    """Returns the masks unchanged."""
    return masks


@dataclass(frozen=True, eq=False)
class Given:
    """A ticket found elsewhere and read from a file."""

    start: State
    """weights and buffers that training begins with, pruned weights included"""
    masks: Masks
    cost: Flops
    """training FLOPs spent to find it"""


@dataclass(frozen=True)
class Arm:
    """One way to retrain the pruned network; arms with the same seed share the dense training."""

    name: str
    weights: Rewinding = to_start
    """sets the weights that training begins with"""
    masks: Callable[[Masks, torch.Generator], Masks] = as_found
    """changes the masks before, with a random generator for this round alone"""
    rewind: Steps = 0
    """the rewinding point: a step of the dense training"""
    first: Steps = 0
    """the recipe's step at which a pruned round begins: learning rate and data order continue from there"""
    length: Length = as_recipe
    """how long, and at which learning rates, a pruned round trains"""
    iterative: bool = True
    """whether a round prunes the previous round's trained network; if not, always the dense one"""
    early: Settled | None = None
    """prune the dense network at the step where its mask has settled (You et al. 2020); None: after training"""
    parent: Arm | None = None
    """the arm whose masks this arm uses; None: it finds its own"""
    given: Given | None = None
    """a ticket that replaces start weights and pruning; None: they are this arm's own"""

    def __post_init__(self) -> None:
        if self.early and (self.iterative or self.parent or self.given):
            raise ValueError("early: is for arms that prune the dense network themselves: iterative=false, parent=null")
        if self.given and (self.parent or self.rewind):
            raise ValueError("file: a ticket brings its masks and start with it: parent=null, rewind=0")
        if self.parent and self.parent.parent:
            raise ValueError(f"parent={self.parent.name}: it has no masks of its own but those of another arm")
