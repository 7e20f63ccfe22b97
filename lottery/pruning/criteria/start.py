"""Criteria that compare trained weights with those at the rewinding point (Zhou et al. 2019)."""

from __future__ import annotations

from torch import Tensor

from lottery.pruning.contracts import Evidence, Scores


def large_initial(evidence: Evidence) -> Scores:
    """Absolute value of the weight at the rewinding point, whatever training made of it (Zhou et al. 2019)."""
    return {name: evidence.start[name].abs() for name in evidence.weights}


def magnitude_increase(evidence: Evidence) -> Scores:
    """How much the absolute value has grown since the rewinding point (Zhou et al. 2019)."""
    return {name: weight.detach().abs() - evidence.start[name].abs() for name, weight in evidence.weights.items()}


def movement(evidence: Evidence) -> Scores:
    """Distance between the trained weight and that at the rewinding point (Zhou et al. 2019)."""
    return {name: (weight.detach() - evidence.start[name]).abs() for name, weight in evidence.weights.items()}


def same_sign(evidence: Evidence) -> Scores:
    """Magnitude of a trained weight that has kept its sign since the rewinding point, else 0 (Zhou et al. 2019)."""
    return {name: _along(evidence, name).clamp(min=0) for name in evidence.weights}


def opposite_sign(evidence: Evidence) -> Scores:
    """Magnitude of a trained weight that has changed its sign since the rewinding point, else 0 (Zhou et al. 2019)."""
    return {name: (-_along(evidence, name)).clamp(min=0) for name in evidence.weights}


def _along(evidence: Evidence, name: str) -> Tensor:
    """The trained weight as seen along its sign at the rewinding point."""
    return evidence.weights[name].detach() * evidence.start[name].sign()
