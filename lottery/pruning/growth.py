"""Growth: which pruned weights come back while a network trains, and how many (dynamic sparse training)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lottery.pruning.contracts import Scores
from lottery.pruning.masks import Masks
from lottery.pruning.selection import best


@dataclass(frozen=True)
class Ground:
    """The input of a growth; fields may be added without breaking existing ones."""

    masks: Masks
    """the weights that are left after dropping"""
    gradients: Mapping[str, Tensor]
    """the loss's gradient of every prunable weight, pruned ones included, in a training step; empty if not asked for"""
    rng: torch.Generator
    """the only source of random numbers that a growth may use"""


Growth = Callable[[Ground], Scores]
"""Finite scores of all prunable weights by name; of those that are pruned, the highest come back."""

Fraction = Callable[[int, int], float]
"""(step, step of the last change) -> the share of each layer's weights that is replaced, in [0, 1]"""


def at_random(ground: Ground) -> Scores:
    """Uniform noise: SET (Mocanu et al. 2018).

    The authors drop the smallest positive and the largest negative weights apart; here the smallest magnitudes go.
    """
    return {name: torch.rand(mask.shape, generator=ground.rng) for name, mask in ground.masks.items()}


def by_gradient(ground: Ground) -> Scores:
    """Absolute gradient: RigL (Evci et al. 2020). Raises ValueError where a change does not see gradients."""
    if not ground.gradients:
        raise ValueError("growth: by_gradient needs in_place_of_a_step=true, or there are no gradients to see")
    return {name: ground.gradients[name].detach().abs().cpu() for name in ground.masks}


def constant(step: int, end: int, share: float = 0.3) -> float:
    """The same share at every change (SET: 0.3). Raises ValueError for a share outside (0, 1)."""
    return _checked(share)


def cosine(step: int, end: int, share: float = 0.3) -> float:
    """Falls from `share` to 0 at `end` along half a cosine (RigL: 0.3).

    >>> [round(cosine(step, 100), 3) for step in (0, 50, 100)]
    [0.3, 0.15, 0.0]

    Raises ValueError for a share outside (0, 1).
    """
    return _checked(share) / 2 * (1 + math.cos(math.pi * step / end))


def _checked(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"fraction.share={share:g}: must lie inside (0, 1)")
    return share


def regrow(masks: Masks, scores: Scores, counts: Mapping[str, int]) -> Masks:
    """The masks with as many pruned weights of each layer back as `counts` says, those with the highest scores.

    >>> kept = {"fc.weight": torch.tensor([True, False, False, False])}
    >>> regrow(kept, {"fc.weight": torch.tensor([9.0, 1.0, 3.0, 2.0])}, {"fc.weight": 2})["fc.weight"].tolist()
    [True, False, True, True]
    """
    return {name: mask | best([scores[name]], [~mask], counts[name])[0] for name, mask in masks.items()}
