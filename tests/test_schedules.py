"""Schedules: the targets of each round."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lottery.config.groups import CONF, options
from lottery.pruning.contracts import Schedule, Target
from lottery.pruning.schedules import explicit, geometric, one_shot

exact = settings(deadline=None, derandomize=True, database=None)


@given(st.integers(0, 40), st.floats(0.05, 1.0))
@exact
def test_geometric_keeps_the_same_share_in_each_round(rounds: int, keep: float) -> None:
    found = geometric(rounds, keep)
    assert [target.keep for target in found] == [keep] * rounds
    assert [target.density for target in found] == pytest.approx([math.prod([keep] * n) for n in range(1, rounds + 1)])


def test_geometric_powers_are_not_running_products() -> None:
    # the last digits of a density decide about a weight, so that a longer schedule must begin like a shorter one
    assert [target.density for target in geometric(3, 0.7)] == [0.7, 0.7**2, 0.7**3]
    assert geometric(20, 0.7)[:3] == geometric(3, 0.7)


def test_no_rounds_are_a_dense_training() -> None:
    assert geometric(rounds=0) == ()


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=10, unique=True).map(lambda x: sorted(x, reverse=True)))
@exact
def test_explicit_shares_of_the_living_multiply_to_the_densities(densities: list[float]) -> None:
    found = explicit(densities)
    assert [target.density for target in found] == densities
    products = [math.prod(target.keep for target in found[:n]) for n in range(1, len(found) + 1)]
    assert products == pytest.approx(densities)


def test_one_shot_goes_straight_there() -> None:
    assert one_shot(0.05) == (Target(density=0.05, keep=0.05),)


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        (lambda: geometric(-1), "rounds=-1: must be 0 or more"),
        (lambda: geometric(3, 0.0), r"keep=0\.0: must lie in \(0, 1\]"),
        (lambda: geometric(3, 1.5), r"keep=1\.5: must lie in \(0, 1\]"),
        (lambda: geometric(3, math.nan), "keep=nan"),
        (lambda: one_shot(0.0), r"density=0\.0: must lie inside \(0, 1\)"),
        (lambda: one_shot(1.0), r"density=1\.0: must"),
        (lambda: one_shot(20), "density=20: must"),
        (lambda: explicit([0.5, 0.5]), r"densities=\[0\.5, 0\.5\]: must fall strictly, inside \(0, 1\)"),
        (lambda: explicit([0.2, 0.5]), r"densities=\[0\.2, 0\.5\]"),
        (lambda: explicit([0.5, math.nan]), r"densities=\[0\.5, nan\]"),
    ],
)
def test_impossible_schedules_are_refused(schedule: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        schedule()


@pytest.mark.parametrize("name", sorted(options("schedule")))
def test_every_schedule_falls_and_asks_for_one_thing(name: str) -> None:
    found: Schedule = instantiate(OmegaConf.load(CONF / "schedule" / f"{name}.yaml"))
    assert found
    density = 1.0
    for target in found:
        assert 0 < target.density < density
        assert target.keep == pytest.approx(target.density / density)
        density = target.density
