"""An associative memory of sparse patterns, with weights by the covariance rule, its deletions and its regulation.

Weights are arrays of shape (neurons, neurons), row by receiving neuron, without synapses onto itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.synaptic_pruning.closed_forms import Deletion

Floats = NDArray[np.float32]
CHUNK = 2000
"""Patterns that are summed at a time, so that memory does not grow with their number."""


@dataclass(frozen=True)
class Stored:
    """The sums over stored patterns that weights and all fields are made of; x is a neuron's activity, p its mean."""

    pairs: Floats
    """(neurons, neurons): sum of (x_i - p)(x_j - p)"""
    excess: Floats
    """(neurons,): sum of x_i - p"""
    patterns: int
    coding: float
    """p, the share of neurons that is active in a pattern"""

    @property
    def weights(self) -> Floats:
        """The covariance rule, scaled so that a pattern's field differs by 1 between active and silent neurons."""
        weights = self.pairs / np.float32(len(self.pairs) * self.coding * (1 - self.coding))
        np.fill_diagonal(weights, 0)
        return weights


def drawn(neurons: int, patterns: int, coding: float, rng: np.random.Generator) -> Floats:
    """Patterns of shape (neurons, patterns): 1 with probability `coding`, else 0."""
    return (rng.random((neurons, patterns), dtype=np.float32) < coding).astype(np.float32)


def stored(patterns: Floats, coding: float) -> Stored:
    """The sums over patterns of shape (neurons, patterns)."""
    centred = patterns - np.float32(coding)
    return Stored(centred @ centred.T, centred.sum(1), patterns.shape[1], coding)


def stored_many(neurons: int, patterns: int, coding: float, rng: np.random.Generator) -> Stored:
    """The sums over more patterns than should be held at once."""
    parts = [
        stored(drawn(neurons, min(CHUNK, patterns - first), coding, rng), coding) for first in range(0, patterns, CHUNK)
    ]
    pairs, excess = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("pairs", "excess"))
    return Stored(pairs, excess, patterns, coding)


def snr(weights: NDArray, stored: Stored) -> float:
    """The squared signal-to-noise ratio of the fields, over all neurons and all stored patterns.

    The signal is the difference between the mean fields of active and silent neurons, the noise the fields' variance
    within these two groups. Fields are sums over the active inputs; their moments follow from sums over patterns, so
    that no pattern is shown: a field is w_i (x - p) + p r_i, where r_i is the sum of the neuron's weights.
    """
    count, p = weights.shape[0] * stored.patterns, stored.coding
    rows, excess = weights.sum(1, dtype=np.float64), stored.excess.astype(np.float64)
    answers = (weights @ stored.excess).astype(np.float64)
    field = (answers.sum() + stored.patterns * p * rows.sum()) / count
    square = _dot(weights @ stored.pairs, weights) + 2 * p * (rows @ answers) + stored.patterns * p**2 * (rows @ rows)
    active = excess.sum() / count
    spread = float(np.trace(stored.pairs, dtype=np.float64)) / count - active**2
    together = (_dot(weights, stored.pairs) + p * (rows @ excess)) / count - field * active
    signal = together / spread
    return float(signal**2 / (square / count - field**2 - signal**2 * spread))


def ranking(weights: Floats, rng: np.random.Generator, by_strength: bool) -> NDArray[np.int64]:
    """Flat indices of all synapses, strongest first with ties at random, or all at random."""
    neurons = len(weights)
    order = rng.permutation(neurons * neurons)
    order = order[order % (neurons + 1) != 0]  # no synapse onto itself
    return order[np.argsort(-np.abs(weights.ravel()[order]), kind="stable")] if by_strength else order


def deleted(deletion: Deletion, weights: Floats, order: NDArray[np.int64], count: int) -> Floats:
    """The weights after a deletion that keeps the first `count` synapses of an order; at least one has to go.

    The threshold of compressed deletion is the mean of the last magnitude that stays and the first that goes. Clipped
    synapses have the root mean square of all synapses before the deletion.
    """
    flat, left = weights.ravel(), np.zeros(weights.size, np.float32)
    kept = order[:count]
    match deletion:
        case "random" | "minimal_value":
            left[kept] = flat[kept]
        case "compressed":
            cut = np.abs(flat[order[count - 1 : count + 1]]).mean()
            left[kept] = np.sign(flat[kept]) * np.maximum(np.abs(flat[kept]) - cut, 0)
        case "clipped":
            left[kept] = np.sign(flat[kept]) * np.sqrt(np.square(flat[order]).mean())
    return left.reshape(weights.shape)


def regulated(left: Floats, weights: Floats) -> Floats:
    """Multiplies each neuron's synapses by one factor, which restores its mean field over its own patterns.

    That field, above the mean over all patterns, is in proportion to the product of the synapses with those before the
    deletion, since these are the sums over patterns. A neuron without synapses stays without.

    >>> regulated(np.float32([[0, 0, 4], [0, 0, 0]]), np.float32([[0, 3, 4], [1, 0, 1]])).tolist()
    [[0.0, 0.0, 6.25], [0.0, 0.0, 0.0]]
    """
    before, after = np.square(weights).sum(1), (left * weights).sum(1)
    factor = np.divide(before, after, out=np.zeros_like(before), where=after > 0)
    return left * factor[:, None]


def weakened(weights: Floats, counts: Sequence[int]) -> Iterator[Floats]:
    """Weakens all synapses by as much as leaves the next count of them, and regulates; again and again."""
    left = weights
    for count in counts:
        sizes = np.abs(left)
        cut = np.partition(sizes, -count - 1, axis=None)[-count - 1]
        left = regulated(np.sign(left) * np.maximum(sizes - cut, 0), weights)
        yield left


def strength(left: Floats, weights: Floats) -> float:
    """Total strength relative to that before, once a common factor has made the signal what it was."""
    factor = _dot(weights, weights) / _dot(left, weights)
    return float(factor * np.abs(left).sum(dtype=np.float64) / np.abs(weights).sum(dtype=np.float64))


def correlation(left: Floats, weights: Floats) -> float:
    """The squared correlation of synapses before and after a deletion, about zero: what the closed forms are for.

    >>> correlation(np.float32([[0, 3]]), np.float32([[4, 3]]))
    0.36
    """
    return _dot(left, weights) ** 2 / (_dot(left, left) * _dot(weights, weights))


def recalled(weights: Floats, start: Floats, threshold: float, updates: int) -> Floats:
    """The states of shape (neurons, states) after updates of all neurons at once."""
    state = start
    for _ in range(updates):
        after = (weights @ state > threshold).astype(np.float32)
        if np.array_equal(after, state):
            break
        state = after
    return state


def distorted(patterns: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Patterns in which this share of the active neurons has been exchanged for silent ones."""
    noise = rng.random(patterns.shape, dtype=np.float32)
    moved = np.rint(share * patterns.sum(0)).astype(int)
    state = patterns.copy()
    for number, (each, many) in enumerate(zip(patterns.T, moved, strict=True)):
        order = np.argsort(noise[:, number])
        for value in (0, 1):
            state[order[each[order] != value][:many], number] = value
    return state


def overlap(states: Floats, patterns: Floats, coding: float) -> float:
    """Overlap of states with their patterns: 1 if equal, about 0 for a state that has nothing to do with them.

    >>> x = np.float32([[1, 0], [0, 1]])
    >>> overlap(x, x, 0.5), overlap(1 - x, x, 0.5)
    (1.0, -1.0)
    """
    centred = patterns - np.float32(coding)
    return _dot(centred, states) / _dot(centred, patterns)


def _dot(first: NDArray, second: NDArray) -> float:
    return float(np.einsum("ij,ij->", first, second, dtype=np.float64))
