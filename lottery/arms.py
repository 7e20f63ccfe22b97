"""Arms: what each pruned round begins with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lottery.lengths import Length, as_recipe
from lottery.masks import Masks
from lottery.rewinding import Rewinding, to_start


def as_found(masks: Masks, rng: torch.Generator) -> Masks:
    """The masks as pruning found them."""
    return masks


@dataclass(frozen=True)
class Arm:
    """One way to train the pruned network again; arms of one seed share the dense training."""

    name: str
    weights: Rewinding = to_start
    """what the kept weights are set to"""
    masks: Callable[[Masks, torch.Generator], Masks] = as_found
    """what is done to the masks first, with a generator of the round's own"""
    rewind: int = 0
    """the rewinding point, a step of the dense training"""
    first: int = 0
    """step of the recipe that a pruned round begins with: learning rate and data order go on from there"""
    length: Length = as_recipe
    """how long a pruned round trains"""
    iterative: bool = True
    """whether each round prunes the network that the round before trained, or the dense one again and again"""
    parent: Arm | None = None
    """the arm whose masks are used; None: its own"""

    def __post_init__(self) -> None:
        if self.parent and self.parent.parent:
            raise ValueError(f"parent={self.parent.name}: it has no masks of its own but those of another arm")
