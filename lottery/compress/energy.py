"""Energy of forward passes, where the machine can tell: processors' counters, which Linux shows as powercap (RAPL)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lottery.compress.contents import Example, rows_of
from lottery.compress.latency import FEWEST, Interval, evaluating, median

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """A processor's counter of energy, which begins anew at its range."""

    folder: Path

    def joules(self) -> float:
        return int((self.folder / "energy_uj").read_text()) / 1e6

    @property
    def range(self) -> float:
        """Joules at which it begins anew."""
        return int((self.folder / "max_energy_range_uj").read_text()) / 1e6

    def since(self, before: float) -> float:
        """Joules since it stood at `before`, if it began anew at most once: at 200 W once in several minutes."""
        now = self.joules()
        return now - before if now >= before else now + self.range - before


def counters(powercap: Path = POWERCAP) -> list[Counter]:
    """The counters of all processors; none where there are none, or where this user may not read them.

    A package counts its cores and all else on the chip. Parts of it (`intel-rapl:0:0`) are in it already, and so is the
    package in what counts a whole platform (`psys`). AMD's have the same names.
    """
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        counter = Counter(folder)
        try:
            if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package"):
                counter.joules(), counter.range  # whether they can be read
                found.append(counter)
        except (OSError, ValueError):
            return []  # some of several processors would be less than the truth
    return found


def energies(
    nets: Mapping[str, nn.Module],
    example: Example,
    counted: Sequence[Counter],
    batch: int = 64,
    threads: int = 1,
    turns: int = 7,
    block: float = 0.3,
) -> dict[str, Interval | None]:
    """Joules an example of each network, the median over turns with its 95 % interval; None where nothing counts.

    It is that of the processors with all that ran on them meanwhile, at rest too: a network that takes half the time
    takes about half the energy. Networks take turns of at least `block` seconds, each evaluating as in `latencies`;
    counters advance about each millisecond. Raises ValueError for too few turns.
    """
    if not counted:
        return dict.fromkeys(nets)
    if turns < FEWEST:
        raise ValueError(f"turns={turns}: must be at least {FEWEST}")
    inputs, before = rows_of(example, batch), torch.get_num_threads()
    spent: dict[str, list[float]] = {name: [] for name in nets}
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for turn in range(turns + 1):  # the first warms up
                for name in list(nets)[:: -1 if turn % 2 else 1]:
                    with evaluating(nets[name]):
                        joules = _joules(nets[name], inputs, counted, block)
                    spent[name] += [joules / batch] if turn else []
    finally:
        torch.set_num_threads(before)
    return {name: median(values) for name, values in spent.items()}


def _joules(net: nn.Module, inputs: tuple[torch.Tensor, ...], counted: Sequence[Counter], block: float) -> float:
    """Joules of a forward pass, the mean over as many as fill a block."""
    begun, calls = [counter.joules() for counter in counted], 0
    end = time.perf_counter() + block
    while not calls or time.perf_counter() < end:
        net(*inputs)
        calls += 1
    return math.fsum(counter.since(at) for counter, at in zip(counted, begun, strict=True)) / calls
