"""What deletion costs a memory of Gaussian synapses, in closed form (Chechik, Meilijson & Ruppin 1998).

A Hebbian synapse that stores many patterns is a standard normal z, and a deletion turns it into g(z). The signal in a
neuron's field is then in proportion to E[z g], the variance of its noise to E[g^2], so that the squared
signal-to-noise ratio, and with it the number of patterns that can be stored, falls to the squared correlation of g and
z. All four deletions keep a share of the synapses, the *density*; three of them keep those with |z| above a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal, get_args

from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

Deletion = Literal["random", "minimal_value", "compressed", "clipped"]
"""What becomes of the synapses that are kept: at random and unchanged; the strongest and unchanged; the strongest, all
weaker by the threshold; the strongest, all equally strong."""
DELETIONS: tuple[Deletion, ...] = get_args(Deletion)
_INTACT = sqrt(2 / pi)
"""E|z|"""


@dataclass(frozen=True)
class Moments:
    """Means over all synapses, deleted ones too: of z g, of g squared and of |g|."""

    signal: float
    power: float
    strength: float


def threshold(density: float) -> float:
    """The magnitude that a share of standard normals exceeds.

    >>> round(threshold(0.5), 4), round(threshold(0.05), 2)
    (0.6745, 1.96)
    """
    return float(norm.isf(density / 2))


def moments(deletion: Deletion, density: float) -> Moments:
    """The moments of a deletion at a density.

    >>> moments("random", 0.25).signal, round(moments("compressed", 0.25).signal, 9)
    (0.25, 0.25)
    """
    cut = threshold(density)
    height, tail = float(norm.pdf(cut)), density / 2
    match deletion:
        case "random":
            return Moments(density, density, density * _INTACT)
        case "minimal_value":
            kept = 2 * (cut * height + tail)
            return Moments(kept, kept, 2 * height)
        case "compressed":
            return Moments(density, 2 * ((1 + cut**2) * tail - cut * height), 2 * (height - cut * tail))
        case "clipped":
            return Moments(2 * height, density, density)


def snr(deletion: Deletion, density: float) -> float:
    """The squared signal-to-noise ratio, relative to that before the deletion.

    >>> [round(snr(deletion, 0.5), 4) for deletion in DELETIONS]
    [0.5, 0.9287, 0.8367, 0.8079]
    """
    of = moments(deletion, density)
    return of.signal**2 / of.power


def strength(deletion: Deletion, density: float) -> float:
    """Total strength relative to that before the deletion, once a common factor has made the signal what it was.

    The signal-to-noise ratio does not depend on a common scale, so that a budget of strength says nothing without one.

    >>> [round(strength(deletion, 0.2), 3) for deletion in DELETIONS]
    [1.0, 0.677, 0.593, 0.714]
    """
    of = moments(deletion, density)
    return of.strength / of.signal / _INTACT


def density_of(deletion: Deletion, total: float) -> float:
    """The density at which a deletion other than random needs this total strength. Raises ValueError if there is none.

    >>> round(density_of("compressed", 0.593), 2)
    0.2
    """
    return float(brentq(lambda density: strength(deletion, density) - total, 1e-6, 1 - 1e-9))


def grown(deletion: Deletion, density: float) -> float:
    """The squared ratio of a network that has grown until deletion leaves it as many synapses as it had, to before.

    Synapses are in proportion to density times the square of the number of neurons, the squared ratio to that number.

    >>> round(grown("minimal_value", 0.2), 3)
    1.453
    """
    return snr(deletion, density) / sqrt(density)


def best(deletion: Deletion) -> float:
    """The density that makes the most of a number of synapses, if the network may grow.

    >>> round(best("minimal_value"), 2), round(best("random"), 2)
    (0.21, 1.0)
    """
    return float(minimize_scalar(lambda density: -grown(deletion, density), bounds=(1e-4, 1), method="bounded").x)
