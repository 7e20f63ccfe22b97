"""The largest of a network's smaller ones that stays within a device's limits, found by counting and measuring.

Measuring decides which share of the network is asked for, and nothing else. A share is a plain number: with it the same
network is made again, on any machine, and no number that is trained depends on what a clock said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from lottery.compress.latency import Interval, latencies, median
from lottery.compress.limits import LATENCY, Verdict, verdict
from lottery.compress.smaller import Trained
from lottery.foundations.errors import Refused
from lottery.pruning.channels.masking import left
from lottery.pruning.channelwise import OutOfReach
from lottery.pruning.masks import Masks
from lottery.rounds.prune import Pruning
from lottery.training.costs import COSTS

SHARES = 1000
"""Shares are multiples of one over this."""
TURNS = 61
"""Turns of a network's timing, at least 20 ms each."""


@dataclass(frozen=True)
class Candidate:
    """A smaller network, what it costs, and whether that is within the limits."""

    share: float
    """of what `structure.budget` names, as `--keep` takes it; 1 is the network as it is"""
    costs: Mapping[str, int]
    """parameters, flops (multiply-adds of an example) and bytes"""
    latency: Interval | None
    """seconds for one example; None where it is not limited"""
    verdict: Verdict

    def __str__(self) -> str:
        counted = f"{self.costs['parameters']:,} parameters, {self.costs['bytes']:,} bytes"
        if not self.latency:
            return f"{counted}, {self.costs['flops']:,} multiply-adds"
        values = (1e3 * value for value in (self.latency.middle, self.latency.low, self.latency.high))
        return "{}, {:.3g} [{:.3g}, {:.3g}] ms".format(counted, *values)


def candidates(trained: Trained, pruning: Pruning, limits: Mapping[str, float], threads: int) -> Iterator[Candidate]:
    """The networks that bisection tries: the whole, the smallest, then between the largest within and the next above.

    Costs do not depend on a network's values, so that none is refitted or trained for it. The whole network's latency
    is measured first; the others' are in proportion to it, each measured in turns with it, since what else a machine
    does changes within minutes. A latency that can't be told from its limit counts as one above. Where time does not
    fall with every channel, as on hardware that likes round numbers, the last that is within is one that fits, and not
    always the largest. Raises Refused as `chosen` does.
    """
    coupling, example = trained.recipe.coupling, trained.recipe.example
    whole = trained.part(trained.untrained(left(coupling, trained.masks)))
    alone: Interval | None = None
    if LATENCY in limits:
        alone = latencies({"whole": whole}, example, (1,), threads, TURNS)[0].interval

    @cache
    def beside(kept: tuple[tuple[str, tuple[int, ...]], ...]) -> Interval | None:
        if alone is None:
            return None
        net = trained.part(trained.untrained(dict(kept)))
        other, own = latencies({"whole": whole, "net": net}, example, (1,), threads, TURNS)
        return median([a / b * alone.middle for a, b in zip(own.seconds, other.seconds, strict=True)])

    def candidate(share: float, masks: Masks) -> Candidate:
        kept = left(coupling, masks)
        costs = {name: trained.recipe.cost(name, kept) for name in COSTS}
        latency = beside(tuple((name, tuple(channels)) for name, channels in kept.items())) if share < 1 else alone
        return Candidate(share, costs, latency, verdict(limits, costs, latency))

    yield (first := candidate(1.0, trained.masks))
    if first.verdict == "within":
        return
    low, masks = _least(trained, pruning)
    yield (smallest := candidate(low / SHARES, masks))
    if smallest.verdict != "within":
        return
    high = SHARES
    while high - low > 1:
        middle = (low + high) // 2
        yield (found := candidate(middle / SHARES, trained.chosen(pruning, middle / SHARES)))
        low, high = (middle, high) if found.verdict == "within" else (low, middle)


def largest(tried: Iterable[Candidate], asked: str) -> Candidate:
    """The largest candidate that is within. Raises Refused if the whole network is, or the smallest is not."""
    whole, *smaller = tried
    if whole.verdict == "within":
        raise Refused(f"--within {asked}: the network is within as it is, with {whole}")
    within = [candidate for candidate in smaller if candidate.verdict == "within"]
    if not within:
        (smallest,) = smaller
        how = "can't be told from noise" if smallest.verdict == "undecided" else "can't be reached"
        raise Refused(
            f"--within {asked}: {how}; the smallest network, a share of {smallest.share:g}, has {smallest}, "
            f"and the whole one {whole}"
        )
    return max(within, key=lambda candidate: candidate.share)


def _least(trained: Trained, pruning: Pruning) -> tuple[int, Masks]:
    """The smallest share that can be reached, in thousandths, and its masks."""
    try:
        return 1, trained.chosen(pruning, 1 / SHARES)
    except OutOfReach as error:
        share = min(SHARES, math.ceil(SHARES * error.least))
        return share, trained.chosen(pruning, share / SHARES)
