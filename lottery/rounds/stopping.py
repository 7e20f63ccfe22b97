"""Stopping conditions: when a chain of rounds ends before its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lottery.foundations.metrics import Headline
from lottery.pruning import masks as _masks
from lottery.pruning.channels.masking import left
from lottery.rounds.round import Round
from lottery.training.recipes import Recipe

SIZES = ("parameters", "flops", "bytes")
"""Conditions on what is left without channels that nothing reads any more."""


@dataclass(frozen=True)
class Stop:
    """Conditions on what a round ended with, its masks and last row; the round that meets one is the chain's last."""

    density: float | None = None
    """stop once the density is at most this, in (0, 1)"""
    below_dense: float | None = None
    """stop once the module's headline metric on validation data is worse than the dense network's by more than this; a
    metric that is not finite can't be compared and never stops a chain"""
    floor: float | None = None
    """stop once that metric is worse than this number"""
    parameters: float | None = None
    """stop once the network without its dead channels has at most so many parameters"""
    flops: float | None = None
    """the same of its multiply-adds for an example"""
    bytes: float | None = None
    """the same of the bytes of its safetensors file"""

    def __post_init__(self) -> None:
        if self.density is not None and not 0 < self.density < 1:
            raise ValueError(f"density={self.density}: must lie inside (0, 1)")
        if self.below_dense is not None and not self.below_dense >= 0:
            raise ValueError(f"below_dense={self.below_dense}: must be 0 or more")
        for name, size in self.sizes.items():
            if not size > 0:
                raise ValueError(f"{name}={size}: must be more than 0")

    @property
    def sizes(self) -> dict[str, float]:
        """The sizes that end a chain, by name."""
        return {name: size for name in SIZES if (size := getattr(self, name)) is not None}

    def reason(
        self,
        density: float,
        now: Mapping[str, Any],
        dense: Mapping[str, Any],
        metric: Headline,
        cost: Callable[[str], int] | None = None,
    ) -> str | None:
        """Why a chain ends with a round, given its density, its last row and the dense network's; None if it does not.

        `cost` gives a size of the round's network by its name, and is asked only for sizes that are conditions.

        >>> Stop(density=0.1).reason(0.09, {}, {}, Headline.named("accuracy"))
        'density 0.09 is within stop.density=0.1'
        """
        if self.density is not None and density <= self.density:
            return f"density {density:.4g} is within stop.density={self.density:g}"
        if self.below_dense is not None:
            name, side = f"val_{metric.name}", "below" if metric.higher_is_better else "above"
            value, whole = now[name], dense[name]
            if None not in (value, whole) and metric.gain(value) < metric.gain(whole) - self.below_dense:
                return (
                    f"{name} {value:.4g} is more than stop.below_dense={self.below_dense:g} {side} the dense "
                    f"network's {whole:.4g}"
                )
        if self.floor is not None:
            value, side = now[f"val_{metric.name}"], "below" if metric.higher_is_better else "above"
            if value is not None and metric.gain(value) < metric.gain(self.floor):
                return f"val_{metric.name} {value:.4g} is {side} stop.floor={self.floor:g}"
        for name, most in self.sizes.items():
            if cost and (size := cost(name)) <= most:
                return f"{size:,} {name} are within stop.{name}={most:.10g}"
        return None


def stop_reason(recipe: Recipe, stop: Stop, dense: Round, current: Round) -> str | None:
    """Why a chain ends with this round; None if it goes on."""
    if stop == Stop():  # without a condition, no round is trained for one
        return None
    now, whole = current.trained, dense.trained
    asked = _masks.density(now.masks), now.rows[-1], whole.rows[-1], recipe.headline
    # a condition of one's own, which has no sizes, takes what there was before them
    return stop.reason(*asked, partial(_size, recipe, now.masks)) if sizes_of(stop) else stop.reason(*asked)


def sizes_of(stop: Stop) -> dict[str, float]:
    """The sizes that end a chain, by name; those of one's own condition are its own affair."""
    return stop.sizes if isinstance(stop, Stop) else {}


def _size(recipe: Recipe, masks: _masks.Masks, name: str) -> int:
    return recipe.cost(name, left(recipe.coupling, masks))
