"""Paired measurements: two variants run in turn, so that other load on the machine affects both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from scipy.stats import binom


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, which other processes on a busy machine hardly affect."""
    start = time.process_time()
    work()
    return time.process_time() - start


def turns(one: Callable[[], float], other: Callable[[], float], pairs: int, warmups: int = 1) -> list[float]:
    """Ratios of the results of `one` and `other`, called in turn; the first `warmups` pairs are dropped."""
    return [one() / other() for _ in range(warmups + pairs)][warmups:]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median from order statistics; the range for fewer than six values.

    >>> interval([3, 1, 2])
    (1, 3)
    """
    ranked, below = sorted(values), max(1, int(binom.ppf(0.025, len(values), 0.5)))
    return ranked[below - 1], ranked[-below]


def median(values: Sequence[float], form: str = ".3f") -> str:
    """The median, its interval and the number of values, as text."""
    low, high = interval(values)
    return f"{statistics.median(values):{form}} [{low:{form}}, {high:{form}}], {len(values)}"
