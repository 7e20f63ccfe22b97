"""Energy: counters of a made-up machine, whose values are given, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lottery.compress.energy import Counter, counters, energies
from lottery.compress.latency import Interval
from lottery.compress.points import rows, shown
from lottery.compress.sizes import sizes

RANGE = 262_143_328_850
"""microjoules at which a real counter begins anew"""


def powercap(root: Path, **zones: tuple[str, int]) -> Path:
    """A tree as Linux has it: a folder for each zone, with its name and its counter in microjoules."""
    for zone, (name, energy) in zones.items():
        folder = root / zone.replace("_", ":").replace("rapl", "intel-rapl")
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return root


def test_packages_count_once(tmp_path: Path) -> None:
    zones = {"rapl_0": ("package-0", 5), "rapl_0_0": ("core", 3), "rapl_0_1": ("dram", 2), "rapl_1": ("package-1", 7)}
    root = powercap(tmp_path, **zones, rapl_2=("psys", 11))
    (root / "intel-rapl").mkdir()  # the driver's own folder
    assert [counter.folder.name for counter in counters(root)] == ["intel-rapl:0", "intel-rapl:1"]
    assert [counter.joules() for counter in counters(root)] == [5e-6, 7e-6]


def test_a_counter_that_begins_anew(tmp_path: Path) -> None:
    (counter,) = counters(powercap(tmp_path, rapl_0=("package-0", RANGE - 1_000_000)))
    before = counter.joules()
    (counter.folder / "energy_uj").write_text(str(RANGE - 250_000))
    assert counter.since(before) == pytest.approx(0.75)
    (counter.folder / "energy_uj").write_text("500000")
    assert counter.since(before) == pytest.approx(1.5)


@pytest.mark.parametrize("fault", ["gone", "empty", "text"])
def test_a_machine_that_can_t_tell_of_all_its_processors_tells_nothing(fault: str, tmp_path: Path) -> None:
    root = powercap(tmp_path, rapl_0=("package-0", 5), rapl_1=("package-1", 5))
    file = root / "intel-rapl:1" / "energy_uj"
    file.unlink() if fault == "gone" else file.write_text("" if fault == "empty" else "none")
    assert counters(root) == []
    assert counters(tmp_path / "none") == []


class Spends(nn.Module):
    """Each call adds so many microjoules to two counters."""

    def __init__(self, energy: int, found: list[Counter]) -> None:
        super().__init__()
        self.energy, self.found, self.drop, self.modes = energy, found, nn.Dropout(), set[tuple[bool, int]]()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for counter in self.found:
            file = counter.folder / "energy_uj"
            file.write_text(str((int(file.read_text()) + self.energy) % RANGE))
        self.modes.add((self.drop.training, len(inputs)))
        return inputs


def test_joules_of_an_example_are_those_that_the_counters_saw(tmp_path: Path) -> None:
    found = counters(powercap(tmp_path, rapl_0=("package-0", RANGE - 3_000_000), rapl_1=("package-1", 0)))
    nets = {name: Spends(energy, found) for name, energy in (("dense", 640_000), ("small", 160_000))}
    measured = energies(nets, torch.ones(2, 1), found, batch=64, turns=6, block=0)
    for name, joules in (("dense", 2 * 0.64 / 64), ("small", 2 * 0.16 / 64)):
        assert measured[name] == Interval(*[pytest.approx(joules)] * 3)
    assert nets["dense"].modes == {(False, 64)}
    assert nets["dense"].drop.training
    with pytest.raises(ValueError, match=r"turns=5: must be at least 6"):
        energies(nets, torch.ones(2, 1), found, turns=5)


def test_the_table_says_what_is_not_measured() -> None:
    net = nn.Linear(2, 1)
    points = {name: sizes(net, torch.ones(1, 2)) for name in ("dense", "small")}
    assert energies({"dense": net, "small": net}, torch.ones(1, 2), []) == {"dense": None, "small": None}
    made = rows(points, "dense", energy={"dense": Interval(0.002, 0.001, 0.003), "small": None})
    assert shown(made)[-1] == ["mJ an example", "2 [1, 3]", "not measured"]
    assert [made[0][column] for column in ("mj", "mj_low", "mj_high")] == [2.0, 1.0, 3.0]
    assert not [line for line in shown(rows(points, "dense")) if line[0].startswith("mJ")]
