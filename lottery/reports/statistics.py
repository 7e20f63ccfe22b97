"""Statistics of replicates: interval, match, paired comparison, Holm's correction, interquartile mean.

Everything here is plain numbers; what they are measured from, `intervals` and the page know. Arrays have one replicate
in each place of their last axis, NaN where there is none. Of scipy, `special` alone: `stats` takes seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Match = Literal["yes", "no", "undecided"]
Judgement = Literal["holds", "does not hold", "undecided"]

FEW = 5
"""From so many replicates on their quantiles can be resampled; the bootstrap of fewer is too narrow."""
RESAMPLES = 1000
ROUNDING = 1e-12
"""The largest difference that is taken for rounding, as a share of the mean, or of 0.001 if that is less."""


@dataclass(frozen=True)
class Spread:
    """Means over replicates, half the widths of their 95 % t-intervals, and how many replicates there are."""

    mean: Floats
    half: Floats
    n: NDArray[np.int64]


def spread(values: ArrayLike) -> Spread:
    """Means and 95 % t-intervals over the last axis, without what is NaN.

    The interval is infinite for one value, and for fewer than FEW that are equal but for rounding: scores are counts of
    test examples, so that a few may agree by chance, and their deviation of zero says nothing of the next one.
    """
    values = np.asarray(values, dtype=float)
    there = ~np.isnan(values)
    n = there.sum(axis=-1)
    some = np.maximum(n, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.where(n > 0, np.where(there, values, 0.0).sum(axis=-1) / some, np.nan)
        apart = np.where(there, values - mean[..., None], 0.0)
        deviation = np.sqrt((apart**2).sum(axis=-1) / np.maximum(n - 1, 1))
        alike = (n > 0) & (np.abs(apart).max(axis=-1, initial=0.0) <= ROUNDING * np.maximum(1e-3, np.abs(mean)))
        half = special.stdtrit(np.maximum(n - 1.0, 1.0), 0.975) * np.where(alike, 0.0, deviation) / np.sqrt(some)
    return Spread(mean, np.where((n < 2) | ((n < FEW) & alike), np.inf, half), n)


def mean_interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t-interval, as `spread` gives them; NaN for the mean of none.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    >>> mean_interval([0.95, 0.95])
    (0.95, inf)
    """
    values = np.asarray(list(values), dtype=float)
    if not len(values):
        return math.nan, math.inf
    if np.isnan(values).any():
        return math.nan, math.nan
    found = spread(values)
    return float(found.mean), float(found.half)


def match(gain: float, half: float, margin: float) -> Match:
    """Whether something is worse by less than the margin: the interval of its gain lies above minus the margin.

    >>> match(-0.002, 0.001, 0.005), match(-0.009, 0.001, 0.005), match(-0.002, 0.01, 0.005)
    ('yes', 'no', 'undecided')
    """
    if gain - half > -margin:
        return "yes"
    return "no" if gain + half < -margin else "undecided"


def judge(interval: tuple[float, float], value: float, bound: float | Literal[">=", "<="]) -> Judgement:
    """Whether an interval, ends included, lies wholly on the claimed side of a value or within its tolerance.

    >>> judge((0.1, 0.3), 0, ">="), judge((-0.1, 0.3), 0, ">="), judge((-0.3, -0.1), 0, ">=")
    ('holds', 'undecided', 'does not hold')
    """
    low, high = interval
    least = -math.inf if bound == "<=" else value if bound == ">=" else value - bound
    most = math.inf if bound == ">=" else value if bound == "<=" else value + bound
    if not low <= high or low == math.inf or high == -math.inf:  # NaN, or no number at all
        return "undecided"
    if least <= low and high <= most:
        return "holds"
    return "does not hold" if high < least or most < low else "undecided"


@dataclass(frozen=True)
class Comparison:
    """Paired differences: their spread, the two-sided p of the paired t-test, and the standardised effect."""

    spread: Spread
    p: Floats
    """NaN where there are fewer than two pairs, or fewer than FEW that are equal."""
    effect: Floats
    """Hedges' g of the differences: mean over standard deviation, times the correction for few pairs. NaN without p."""


def compare(differences: ArrayLike) -> Comparison:
    """The paired t-test over the last axis (Student 1908), with Hedges' g (Hedges 1981)."""
    found = spread(differences)
    freedom = np.maximum(found.n - 1, 1).astype(float)
    known = np.isfinite(found.half) & np.isfinite(found.mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = found.half / special.stdtrit(freedom, 0.975)
        t = found.mean / error
        p = np.where(error > 0, 2 * special.stdtr(freedom, -np.abs(t)), np.where(found.mean == 0, 1.0, 0.0))
        small = np.exp(special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2)
        effect = np.where(freedom > 1, small, np.nan) * t / np.sqrt(found.n)
        effect = np.where(error > 0, effect, np.where(found.mean == 0, 0.0, np.nan))
    return Comparison(found, np.where(known, p, np.nan), np.where(known, effect, np.nan))


def holm(p: ArrayLike) -> Floats:
    """Adjusted p-values that keep the chance of any false finding in the family below their level (Holm 1979).

    NaN is no test: it stays, and does not count in the family.

    >>> [round(float(value), 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def iqm(values: ArrayLike) -> Floats:
    """Interquartile means over the last axis: a quarter of the values is cut off at each end, as many as are whole.

    >>> float(iqm([1, 2, 3, 4, 100]))
    3.0
    """
    values = np.sort(np.asarray(values, dtype=float), axis=-1)
    cut = values.shape[-1] // 4
    return np.asarray(values[..., cut : values.shape[-1] - cut].mean(axis=-1))


def iqm_intervals(rows: ArrayLike, seed: int = 0) -> Floats:
    """`iqm_interval` of each row, without what is NaN, as one stratum; columns are the mean and both ends."""
    rows = np.sort(np.asarray(rows, dtype=float), axis=-1)
    n = rows.shape[-1]
    found = np.full((len(rows), 3), np.nan)
    whole = ~np.isnan(rows).any(axis=-1)
    if n >= FEW:  # all at once: places of sorted values are sorted once, and serve for every row
        places = np.sort(_places((n,), seed), axis=-1)[:, n // 4 : n - n // 4]
        found[whole, 0] = iqm(rows[whole])
        found[whole, 1:] = np.quantile(rows[whole][:, places].mean(axis=-1), [0.025, 0.975], axis=-1).T
    for row in np.flatnonzero(~whole if n >= FEW else np.ones(len(rows), dtype=bool)):
        found[row] = iqm_interval([rows[row][~np.isnan(rows[row])]], seed)
    return found


def iqm_interval(strata: Sequence[ArrayLike], seed: int = 0) -> tuple[float, float, float]:
    """The interquartile mean of all values with its 95 % percentile interval from a stratified bootstrap.

    Each stratum, such as a study, is resampled by itself (Agarwal et al. 2021). The ends are NaN for fewer than `FEW`
    values in all, or a stratum of one, which resampling does not vary.
    """
    groups = [np.asarray(stratum, dtype=float) for stratum in strata if np.size(stratum)]
    everything = np.concatenate(groups) if groups else np.empty(0)
    if not len(everything):
        return math.nan, math.nan, math.nan
    middle = float(iqm(everything))
    if len(everything) < FEW or min(map(len, groups)) < 2:
        return middle, math.nan, math.nan
    low, high = np.quantile(iqm(everything[_places(tuple(map(len, groups)), seed)]), [0.025, 0.975])
    return middle, float(low), float(high)


@lru_cache(maxsize=2)  # the densities of a study have as many runs each, nearly always
def _places(sizes: tuple[int, ...], seed: int) -> NDArray[np.int64]:
    """The places that each resample draws, among the values of strata of some sizes one after the other."""
    rng, starts = np.random.default_rng(seed), np.cumsum([0, *sizes])
    drawn = [start + rng.integers(size, size=(RESAMPLES, size)) for start, size in zip(starts, sizes, strict=False)]
    return np.concatenate(drawn, axis=-1)
