"""Limits of a device on what a network costs, as a command line writes them: bytes=100kB,latency=2ms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from lottery.compress.latency import Interval

COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
UNITS: dict[str, dict[str, float]] = {
    "parameters": COUNTS,
    "flops": COUNTS,
    "bytes": {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"s": 1, "ms": 1e-3, "us": 1e-6},
}
"""Of each limit, what its units are worth: numbers, bytes, seconds."""
LATENCY = "latency"

Verdict = Literal["within", "undecided", "too much"]


def limits(text: str) -> dict[str, float]:
    """The limits that a text names, in numbers, bytes and seconds.

    >>> limits("bytes=100kB,latency=2ms")
    {'bytes': 100000.0, 'latency': 0.002}

    Raises ValueError for an unknown name, for one given twice, and for a value that is no positive number with a unit.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in UNITS:
            raise ValueError(f"{part}: must limit one of {', '.join(UNITS)}, such as bytes=100kB,latency=2ms")
        if name in found:
            raise ValueError(f"{part}: {name} is limited twice")
        number = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?) ?([A-Za-z]*)", value)
        units = UNITS[name]
        try:
            found[name] = float(number[1]) * units[number[2]] if number else 0.0
        except (KeyError, ValueError):
            found[name] = 0.0
        if not 0 < found[name] < float("inf"):
            allowed = ", ".join(unit or "none" for unit in units)
            raise ValueError(f"{part}: must be a positive number with a unit, which is one of {allowed}")
    return found


def verdict(limits: Mapping[str, float], costs: Mapping[str, int], latency: Interval | None) -> Verdict:
    """Whether costs, and the median of a latency in seconds with its 95 % interval, are within limits.

    A latency is within if all of its interval is, and too much if none of it is; between it is undecided.

    >>> verdict({"latency": 0.002}, {}, Interval(0.0019, 0.0018, 0.0021))
    'undecided'
    """
    if any(costs[name] > limit for name, limit in limits.items() if name != LATENCY):
        return "too much"
    if LATENCY not in limits or latency is None:
        return "within"
    if latency.low > limits[LATENCY]:
        return "too much"
    return "within" if latency.high <= limits[LATENCY] else "undecided"
