"""Arms: how a pruned round's weights and masks are set before it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lottery.foundations.durations import Steps
from lottery.pruning.contracts import Schedule, Target
from lottery.pruning.masks import Masks
from lottery.pruning.schedules import Descent
from lottery.rounds.early_bird import Settled
from lottery.rounds.lengths import Length, as_recipe
from lottery.rounds.rewinding import Rewinding, to_start
from lottery.training.changes import Changes, Rule
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
    prune_at: Steps | None = None
    """the step of the dense training at which each round's masks are found, 0 for initialisation; None: its end"""
    descent: Descent | None = None
    """densities on the way to a round's, at each of which the masked network is scored anew; None: straight to it"""
    during: Rule | None = None
    """how masks change while a pruned round trains; None: they do not"""
    during_identity: Mapping[str, Any] = field(default_factory=dict)
    """the settings and user code of `during` as plain data"""
    early: Settled | None = None
    """prune the dense network at the step where its mask has settled (You et al. 2020); None: after training"""
    parent: Arm | None = None
    """the arm whose masks this arm uses; None: it finds its own"""
    given: Given | None = None
    """a ticket that replaces start weights and pruning; None: they are this arm's own"""

    def __post_init__(self) -> None:
        if self.early and (self.iterative or self.parent or self.given):
            raise ValueError("early: is for arms that prune the dense network themselves: iterative=false, parent=null")
        if self.prune_at is not None and (self.iterative or self.parent or self.given or self.early):
            raise ValueError(
                f"prune_at={self.prune_at}: is for arms that prune the dense network themselves, at a step that is "
                "given: iterative=false, parent=null, early=null"
            )
        if self.descent and self.prune_at is None:
            raise ValueError("descent: is for arms that prune at a step of the dense training: prune_at=0 or later")
        if self.during and (self.parent or self.given):
            raise ValueError("during: is for arms that find their own masks: parent=null, and no file")
        if self.during and self.during.begins_dense and self.prune_at != 0:
            raise ValueError("during: it begins with the dense network, which takes prune_at=0 and iterative=false")
        if self.given and (self.parent or self.rewind):
            raise ValueError("file: a ticket brings its masks and start with it: parent=null, rewind=0")
        if self.parent and self.parent.parent:
            raise ValueError(f"parent={self.parent.name}: it has no masks of its own but those of another arm")

    @property
    def from_dense(self) -> bool:
        """Whether each round's masks are found on the dense network, whatever earlier rounds have pruned."""
        return self.early is not None or self.prune_at is not None

    def path(self, target: Target) -> Schedule:
        """The targets through which masks come to a round's, the last of them."""
        if not self.from_dense:
            return (target,)
        return self.descent(target.density) if self.descent else (target.of_dense(),)

    def changes(self, target: Target) -> Changes | None:
        """How masks change while the round of a target trains."""
        return Changes(self.during, target.density, self.during_identity) if self.during else None
