"""The share of a network that is within limits: searched for, said while it is, and kept as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lottery.compress.latency import Latency
from lottery.compress.limits import LATENCY, limits, verdict
from lottery.compress.smaller import Trained
from lottery.compress.within import Candidate, candidates, largest
from lottery.rounds.prune import Pruning


@dataclass(frozen=True)
class Searched:
    """What was tried, and the largest share of it that is within the limits."""

    asked: str
    found: Candidate
    tried: tuple[Candidate, ...]

    def write(self, file: Path) -> None:
        """Writes all candidates as a table, seconds in ms."""
        with file.open("w", newline="") as lines:
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(["share", *self.found.costs, "ms_1", "ms_low_1", "ms_high_1", "verdict"])
            for one in sorted(self.tried, key=lambda candidate: candidate.share):
                at = one.latency
                times = [1e3 * value for value in (at.middle, at.low, at.high)] if at else [""] * 3
                writer.writerow([one.share, *one.costs.values(), *times, one.verdict])

    def missed(self, timed: Iterable[Latency]) -> int:
        """Says what the latency was when it was measured again, for the table; 1 if that is above its limit."""
        limit, name = limits(self.asked).get(LATENCY), f"{self.found.share:.10g}"
        if limit is None:
            return 0
        again = next(latency.interval for latency in timed if (latency.network, latency.batch) == (name, 1))
        said = verdict({LATENCY: limit}, {}, again)
        values = "{:.3g} [{:.3g}, {:.3g}] ms".format(*(1e3 * v for v in (again.middle, again.low, again.high)))
        how = {"within": "within", "undecided": "which noise lets nobody tell from", "too much": "above"}[said]
        print(f"\nmeasured again, {name} takes {values}, {how} --within {self.asked}")
        return int(said == "too much")


def searched(trained: Trained, pruning: Pruning, asked: str, threads: int) -> Searched:
    """Searches for the largest share within limits, and says each candidate. Raises Refused if there is none."""
    print(f"within {asked}:", flush=True)
    tried = []
    for candidate in candidates(trained, pruning, limits(asked), threads):
        tried.append(candidate)
        print(f"  {candidate.share:<5g}  {candidate}: {candidate.verdict}", flush=True)
    found = largest(tried, asked)
    print(f"the largest that is within: --keep {found.share:g}")
    return Searched(asked, found, tuple(tried))
