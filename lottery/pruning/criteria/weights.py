"""Criteria that need no data: weight magnitude and random scores."""

from __future__ import annotations

import torch

from lottery.pruning.contracts import Evidence, Scores


def magnitude(evidence: Evidence) -> Scores:
    """Absolute value of the trained weight (Han et al. 2015; Frankle & Carbin 2019)."""
    return {name: weight.detach().abs() for name, weight in evidence.weights.items()}


def small_final(evidence: Evidence) -> Scores:
    """Minus the absolute value of the trained weight: the control that keeps the smallest (Zhou et al. 2019)."""
    return {name: -weight.detach().abs() for name, weight in evidence.weights.items()}


def random(evidence: Evidence) -> Scores:
    """Uniform noise: the baseline that every criterion must beat (Blalock et al. 2020)."""
    return {name: torch.rand(mask.shape, generator=evidence.rng) for name, mask in evidence.masks.items()}
