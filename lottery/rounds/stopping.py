"""Stopping conditions: when a chain of rounds ends before its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lottery.foundations.metrics import Headline
from lottery.pruning import masks as _masks
from lottery.rounds.round import Round
from lottery.training.modules import headline_of
from lottery.training.recipes import Recipe


@dataclass(frozen=True)
class Stop:
    """Conditions on what a round ended with, its masks and last row; the round that meets one is the chain's last."""

    density: float | None = None
    """stop once the density is at most this, in (0, 1)"""
    below_dense: float | None = None
    """stop once the module's headline metric on validation data is worse than the dense network's by more than this; a
    metric that is not finite can't be compared and never stops a chain"""

    def __post_init__(self) -> None:
        if self.density is not None and not 0 < self.density < 1:
            raise ValueError(f"density={self.density}: must lie inside (0, 1)")
        if self.below_dense is not None and not self.below_dense >= 0:
            raise ValueError(f"below_dense={self.below_dense}: must be 0 or more")

    def reason(self, density: float, now: Mapping[str, Any], dense: Mapping[str, Any], metric: Headline) -> str | None:
        """Why a chain ends with a round, given its density, its last row and the dense network's; None if it does not.

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
        return None


def stop_reason(recipe: Recipe, stop: Stop, dense: Round, current: Round) -> str | None:
    """Why a chain ends with this round; None if it goes on."""
    if stop == Stop():  # without a condition, no round is trained for one
        return None
    now, whole = current.trained, dense.trained
    return stop.reason(_masks.density(now.masks), now.rows[-1], whole.rows[-1], headline_of(recipe.sample))
