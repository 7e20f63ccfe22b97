"""Densities of layers: ERK by hand and by bisection, smart ratios, and rounding to whole weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet50

from lottery.models.resnet import resnet
from lottery.pruning.contracts import Target
from lottery.pruning.densities import apportion, erdos_renyi, smart_ratio
from lottery.pruning.masks import dense, kept, prunable
from lottery.pruning.scopes import erdos_renyi as erk
from lottery.pruning.scopes import smart_ratio as smart

exact = settings(deadline=None, derandomize=True, database=None, max_examples=100)
Shapes = dict[str, tuple[int, ...]]


def shapes_of(net: nn.Module) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in prunable(net).items()}


@pytest.fixture(scope="module")
def resnets() -> dict[str, Shapes]:
    with torch.device("meta"):  # shapes alone
        nets = {"20": resnet(20, 1, (3, 32, 32), 10, init=lambda net: net), "50": resnet50()}
    return {name: shapes_of(net) for name, net in nets.items()}


# Sums of sides of all layers: 1,651 of ResNet-20, 52,321 of ResNet-50; of 270,896 and 25,502,912 weights. Full layers
# take their sums and weights out of both.
BY_HAND = {
    ("20", 0.1): (
        (27_089.6 - 640 - 512) / (1651 - 74 - 50),
        {"conv.weight": (25, 432), "stage1.0.conv1.weight": (38, 2304), "stage3.0.shortcut.0.weight": (98, 2048),
         "stage3.2.conv2.weight": (134, 36_864), "stage2.0.conv1.weight": (54, 4608)},
        ["output.weight", "stage2.0.shortcut.0.weight"],
    ),
    ("20", 0.05): (13_544.8 / 1651, {"output.weight": (74, 640), "stage2.0.shortcut.0.weight": (50, 512)}, []),
    ("50", 0.1): (
        (2_550_291.2 - 4096) / (52_321 - 130),
        {"conv1.weight": (81, 9408), "layer1.0.conv3.weight": (322, 16_384), "layer4.2.conv2.weight": (1030, 2_359_296),
         "fc.weight": (3048, 2_048_000)},
        ["layer1.0.conv1.weight"],
    ),
    ("50", 0.05): (1_275_145.6 / 52_321, {"layer1.0.conv1.weight": (130, 4096), "fc.weight": (3048, 2_048_000)}, []),
}  # fmt: skip


@pytest.mark.parametrize(("net", "density"), BY_HAND)
def test_erk_of_resnets_by_hand(resnets: dict[str, Shapes], net: str, density: float) -> None:
    scale, layers, full = BY_HAND[net, density]
    found = erdos_renyi(resnets[net], density, kernel=True)
    assert {name: found[name] for name in layers} == pytest.approx(
        {name: scale * sides / weights for name, (sides, weights) in layers.items()}, rel=1e-12
    )
    assert sorted(name for name, share in found.items() if share == 1) == full
    sizes = {name: prod(shape) for name, shape in resnets[net].items()}
    counts = apportion(round(density * sum(sizes.values())), {n: found[n] * sizes[n] for n in sizes}, sizes)
    totals = {("20", 0.1): 27_090, ("20", 0.05): 13_545, ("50", 0.1): 2_550_291, ("50", 0.05): 1_275_146}
    assert sum(counts.values()) == totals[net, density]
    assert all(abs(counts[name] - found[name] * sizes[name]) <= 1 for name in sizes)


def test_erk_keeps_exactly_as_many_of_resnet_20() -> None:
    net = resnet(20, 1, (3, 32, 32), 10)
    masks = dense(prunable(net))
    scores = {name: weight.detach().abs() for name, weight in prunable(net).items()}
    for density, count in ((0.1, 27_090), (0.05, 13_545), (0.01, 2709)):
        masks = erk(scores, masks, Target(density, 0.5), kernel=True)
        assert kept(masks) == count
        if density == 0.1:
            assert masks["output.weight"].all()
            assert int(masks["conv.weight"].sum()) == 425  # 0.98298 x 432 = 424.6


def bisected(ratios: Mapping[str, float], sizes: Mapping[str, int], total: float) -> dict[str, float]:
    """min(1, scale x ratio) for the scale at which they keep `total`, by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        enough = sum(min(1.0, middle * ratios[name]) * sizes[name] for name in sizes) >= total
        low, high = (low, middle) if enough else (middle, high)
    return {name: min(1.0, high * ratios[name]) for name in sizes}


SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=5)


@given(SHAPES, st.floats(0.01, 1), st.booleans())
@exact
def test_erdos_renyi_is_what_bisection_finds(drawn: list[list[int]], density: float, kernel: bool) -> None:
    shapes = {str(index): tuple(shape) for index, shape in enumerate(drawn)}
    ratios = {name: sum(s) / prod(s) for name, s in ((n, s if kernel else s[:2]) for n, s in shapes.items())}
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = density * sum(sizes.values())
    found = erdos_renyi(shapes, density, kernel)
    assert found == pytest.approx(bisected(ratios, sizes, total), abs=1e-7)
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx(total)


def test_smart_ratios_fall_with_the_square_of_the_layer() -> None:
    sizes = {"a": 100, "b": 200, "c": 300, "output": 100}  # ratios 20, 12, 6 of l = 1, 2, 3 of L = 4
    found = smart_ratio(sizes, 0.2, "output", 0.3)
    assert found == pytest.approx({"a": 110 * 20 / 6200, "b": 110 * 12 / 6200, "c": 110 * 6 / 6200, "output": 0.3})
    found = smart_ratio(sizes, 0.5, "output", 0.3)  # 320 of three: the first is full, the others share 220
    assert found == pytest.approx({"a": 1, "b": 220 * 12 / 4200, "c": 220 * 6 / 4200, "output": 0.3})
    found = smart_ratio(sizes, 0.95, "output", 0.3)  # 665: the output layer takes what the 600 others can't
    assert found == pytest.approx({"a": 1, "b": 1, "c": 1, "output": 0.65})
    found = smart_ratio(sizes, 0.1, None, 0.3)
    assert found == pytest.approx({n: 70 * r / 6400 for n, r in zip(sizes, (20, 12, 6, 2), strict=True)})


def test_smart_ratios_meet_the_density_to_the_weight_and_refuse_an_output_layer_beyond_it() -> None:
    masks = {name: torch.ones(size, dtype=torch.bool) for name, size in (("a", 101), ("b", 57), ("out", 100))}
    scores = {name: torch.arange(float(mask.numel())) for name, mask in masks.items()}
    found = smart(scores, masks, Target(0.31, 0.31, output="out"))
    assert (kept(found), int(found["out"].sum())) == (80, 30)
    with pytest.raises(ValueError, match=r"scope\.output=0\.3: keeps 30 weights of out alone, and .* leaves 26"):
        smart(scores, masks, Target(0.1, 0.1, output="out"))
    two = {"a": torch.ones(10, dtype=torch.bool), "out": torch.ones(10, dtype=torch.bool)}
    ranks = {name: torch.arange(10.0) for name in two}
    with pytest.raises(ValueError, match=r"keeps 3 weights of out alone, and density 0\.125 leaves 2"):
        smart(ranks, two, Target(0.125, 0.125, output="out"))
    with pytest.raises(ValueError, match=r"scope\.output=2: must lie in \[0, 1\]"):
        smart(scores, masks, Target(0.1, 0.1), output=2)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 4)), min_size=1, max_size=6), st.data()
)
@exact
def test_whole_counts_lie_between_least_and_limit(layers: list[tuple[int, int, int]], data: st.DataObject) -> None:
    limits = {str(index): size for index, (size, _, _) in enumerate(layers)}
    least = {name: min(floor, limits[name]) for name, (_, _, floor) in zip(limits, layers, strict=True)}
    total = data.draw(st.integers(sum(least.values()), sum(limits.values())))
    parts = {name: part for name, (_, part, _) in zip(limits, layers, strict=True)}
    shares = {name: total * part / max(1, sum(parts.values())) for name, part in parts.items()}
    found = apportion(total, shares, limits, least)
    assert sum(found.values()) == total
    assert all(least[name] <= found[name] <= limits[name] for name in limits)


def test_what_a_floor_takes_the_others_give_in_proportion() -> None:
    limits = {"tiny": 5, "a": 1000, "b": 1000}
    found = apportion(95, {"tiny": 0.5, "a": 31.5, "b": 63.0}, limits, least=dict.fromkeys(limits, 5))
    assert found == {"tiny": 5, "a": 30, "b": 60}
