"""What every scope keeps to, over random shapes, ties and masks; and what PyTorch's own pruning selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from lottery.pruning.contracts import KeepsNothing, Scope, Scores, Target
from lottery.pruning.masks import Masks, kept
from lottery.pruning.scopes import (
    erdos_renyi,
    everywhere,
    isomorphic,
    lamp,
    layerwise,
    per_output,
    rates,
    smart_ratio,
    threshold,
)

exact = settings(deadline=None, derandomize=True, database=None, max_examples=25)

EXACT: dict[str, Callable[..., Masks]] = {
    "everywhere": everywhere, "lamp": lamp, "layerwise": layerwise, "erdos_renyi": erdos_renyi,
    "erk": partial(erdos_renyi, kernel=True), "smart_ratio": smart_ratio, "isomorphic": isomorphic,
    "per_output": per_output,
}  # fmt: skip
"""scopes that meet a density to the weight"""
ALL = EXACT | {"rates": rates, "threshold": partial(threshold, above=0.0)}
RANKED = {name: ALL[name] for name in ("everywhere", "lamp")}
"""scopes that rank the whole network"""

VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.integers(-2000, 2000).map(lambda part: part / 64))
DENSITIES = st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda part: part / 20))
# layers without weights, parameters of one dimension, and two of one shape
SIDES = st.lists(st.integers(0, 4), min_size=1, max_size=4)


@st.composite
def networks(draw: Callable, distinct: bool = False, living: bool = False) -> tuple[Scores, Masks]:
    shapes = draw(st.lists(SIDES, min_size=1, max_size=4))
    sizes = [prod(shape) for shape in shapes]
    assume(sum(sizes))
    values = draw(st.permutations(range(sum(sizes)))) if distinct else [draw(VALUES) for _ in range(sum(sizes))]
    alive = [True] * sum(sizes) if living else draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)))
    scores, masks = ({}, {})
    for index, (shape, end) in enumerate(zip(shapes, np.cumsum(sizes), strict=True)):
        part = slice(int(end) - sizes[index], int(end))
        scores[f"{index}.weight"] = torch.tensor(values[part], dtype=torch.float32).view(shape)
        masks[f"{index}.weight"] = torch.tensor(alive[part], dtype=torch.bool).view(shape)
    return scores, masks


def asked(scopes: Mapping[str, Scope], scores: Scores, masks: Masks, target: Target) -> Iterator[tuple[str, Masks]]:
    """What each scope gives, by name, without those that refuse what is asked."""
    for name, scope in scopes.items():
        try:
            yield name, scope(scores, masks, target)
        except ValueError as error:
            refusal = {"threshold": "none would be kept", "smart_ratio": "alone, and density"}.get(name)
            if not refusal or refusal not in str(error):
                raise


def first(scores: Tensor, alive: Tensor, count: int) -> list[bool]:
    """The `count` highest of the living by a stable sort in numpy."""
    values, lives = scores.double().numpy().ravel(), np.flatnonzero(alive.numpy().ravel())
    chosen = np.zeros(values.size, dtype=bool)
    chosen[lives[np.argsort(-values[lives], kind="stable")][:count]] = True
    return chosen.tolist()


def same(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@given(networks(), DENSITIES)
@exact
def test_counts_are_exact_and_more_than_lives_is_all_that_lives(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    size = sum(mask.numel() for mask in masks.values())
    for name, found in asked(EXACT, scores, masks, Target(share, 0.5)):
        assert kept(found) == min(round(share * size), kept(masks)), name
    for name, found in asked(EXACT, scores, masks, Target(1.0, 1.0)):
        assert same(found, masks), name


@given(networks(), DENSITIES)
@exact
def test_the_highest_are_kept_none_comes_back_and_nothing_read_is_changed(
    network: tuple[Scores, Masks], share: float
) -> None:
    scores, masks = network
    before = {key: (scores[key].clone(), masks[key].clone()) for key in masks}
    for name, found in asked(ALL, scores, masks, Target(share, share)):
        assert list(found) == list(masks)
        for key, mask in found.items():
            assert torch.equal(scores[key], before[key][0])
            assert torch.equal(masks[key], before[key][1])
            assert (mask.dtype, mask.shape) == (torch.bool, masks[key].shape)
            assert not (mask & ~masks[key]).any(), name
            rows = mask if name == "per_output" and mask.ndim > 1 else mask[None]
            for row, values, alive in zip(rows, scores[key].view_as(rows), masks[key].view_as(rows), strict=True):
                assert row.flatten().tolist() == first(values, alive, int(row.sum())), name


@given(networks(), DENSITIES)
@exact
def test_asked_again_for_what_is_kept_nothing_changes(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    for name, found in asked(EXACT, scores, masks, target := Target(share, 0.5)):
        assert same(EXACT[name](scores, found, target), found), name


@given(networks(), st.tuples(DENSITIES, DENSITIES))
@exact
def test_less_is_a_part_of_more(network: tuple[Scores, Masks], shares: tuple[float, float]) -> None:
    """In each layer one of both contains the other; where layers have counts of their own, rounding decides which."""
    scores, masks = network
    less, more = (dict(asked(EXACT, scores, masks, Target(share, 0.5))) for share in sorted(shares))
    for name in less.keys() & more.keys():
        for key in masks:
            within = not (less[name][key] & ~more[name][key]).any()
            assert within or (name not in RANKED and not (more[name][key] & ~less[name][key]).any()), name


@given(networks(distinct=True), DENSITIES)
@exact
def test_dtype_does_not_matter(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    expected = dict(asked(ALL, scores, masks, Target(share, share)))
    for dtype in (torch.float64, torch.float16):  # whole numbers below 2048 are exact in both
        other = {key: each.to(dtype) for key, each in scores.items()}
        found = dict(asked(ALL, other, masks, Target(share, share)))
        assert found.keys() == expected.keys()
        assert [name for name in found if not same(found[name], expected[name])] == []


@given(networks(distinct=True), DENSITIES)
@exact
def test_the_order_of_layers_does_not_matter(network: tuple[Scores, Masks], share: float) -> None:
    """To scopes that rank; elsewhere it decides which layer has a weight more. The best of all layers tie in LAMP."""
    scores, masks = network
    many = round(share * sum(mask.numel() for mask in masks.values())) >= len(masks)
    scopes = {name: ALL[name] for name in ("everywhere", "threshold", *(["lamp"] if many else []))}
    orders = (masks, dict(reversed(masks.items())))
    one, other = (dict(asked(scopes, scores, order, Target(share, 0.5))) for order in orders)
    assert one.keys() == other.keys()
    assert all(same(one[name], other[name]) for name in one)


@given(networks(), DENSITIES, st.integers(0, 3))
@exact
def test_a_floor_is_kept_at_the_same_density(network: tuple[Scores, Masks], share: float, floor: int) -> None:
    scores, masks = network
    count = round(share * sum(mask.numel() for mask in masks.values()))
    least = {key: min(floor, int(mask.sum())) for key, mask in masks.items()}
    scopes: dict[str, Scope] = {name: partial(scope, floor=floor) for name, scope in ALL.items()}
    if sum(least.values()) > count:
        for name in EXACT:
            with pytest.raises(ValueError, match=r"scope\.(floor|output)="):
                scopes[name](scores, masks, Target(share, share))
            del scopes[name]
    for name, found in asked(scopes, scores, masks, Target(share, share)):
        assert all(int(mask.sum()) >= least[key] for key, mask in found.items()), name
        assert not any((mask & ~masks[key]).any() for key, mask in found.items()), name
        assert name not in EXACT or kept(found) == min(count, kept(masks)), name


@pytest.mark.parametrize("name", ALL)
def test_a_floor_below_zero_is_refused(name: str) -> None:
    scores, masks = {"a": torch.ones(3)}, {"a": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"scope\.floor=-1: must be 0 or more"):
        ALL[name](scores, masks, Target(1.0, 1.0), floor=-1)


# by hand

ONES = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)}
SCORES = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([20.0, 30.0, 10.0])}


def test_lamp_is_free_of_a_layer_s_scale_and_begins_with_the_best_of_each() -> None:
    def found(count: int, scores: Scores) -> list[list[int]]:
        masks = lamp(scores, ONES, Target(count / 6, 0.5))
        return [mask.nonzero().flatten().tolist() for mask in masks.values()]

    # of squares 9, 4, 1: 1, 4/13, 1/14; in the second layer of 900, 400, 100 the same
    assert found(2, SCORES) == [[0], [1]]
    assert found(3, SCORES) == [[0, 2], [1]]  # a tie of 4/13, which the first layer wins
    assert found(3, {"a": torch.tensor([3.0, 1.0, 1.9]), "b": SCORES["b"]}) == [[0], [0, 1]]
    # pruned weights count in no sum: 1/(9 + 1) against 100/1400
    masks = {"a": torch.tensor([True, True, False]), "b": ONES["b"]}
    found4 = lamp(SCORES, masks, Target(4 / 6, 0.5))
    assert [mask.tolist() for mask in found4.values()] == [[True, True, False], [True, True, False]]


def test_lamp_keeps_more_of_a_layer_whose_weights_are_alike() -> None:
    scores = {"a": torch.tensor([10.0, 1.0, 1.0]), "b": torch.ones(3)}  # 1, 1/101, 1/102 and 1, 1/2, 1/3
    found = lamp(scores, ONES, Target(4 / 6, 0.5))
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"a": 1, "b": 3}


def test_lamp_takes_negative_scores_and_zeros_last() -> None:
    scores = {"a": torch.tensor([-5.0, 0.0, -1.0]), "b": torch.tensor([-2.0, 1e-30, -3e38])}
    order = []
    for count in range(1, 7):
        masks = lamp(scores, ONES, Target(count / 6, 0.5))
        order += [(key, index) for key in masks for index in masks[key].nonzero().flatten().tolist()]
    assert list(dict.fromkeys(order)) == [("b", 1), ("a", 1), ("b", 0), ("a", 2), ("a", 0), ("b", 2)]


def test_isomorphic_ranks_layers_of_one_shape_together() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0]]), "other": torch.tensor([9.0, 8.0]), "b": torch.tensor([[3.0, 4.0]])}
    masks = {name: torch.ones_like(each, dtype=torch.bool) for name, each in scores.items()}
    found = isomorphic(scores, masks, Target(0.5, 0.5))
    assert {name: mask.flatten().tolist() for name, mask in found.items()} == {
        "a": [False, False], "other": [True, False], "b": [True, True],
    }  # fmt: skip
    assert not same(found, everywhere(scores, masks, Target(0.5, 0.5)))


def test_per_output_keeps_the_same_share_of_every_output() -> None:
    scores = {
        "fc": torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 4.0, 3.0, 2.0]]),
        "bias": torch.tensor([1.0, 5.0, 2.0, 9.0]),
    }
    masks = {name: torch.ones_like(each, dtype=torch.bool) for name, each in scores.items()}
    found = per_output(scores, masks, Target(0.5, 0.5))
    assert found["fc"].tolist() == [[True, True, False, False], [False, True, True, False]]
    assert found["bias"].tolist() == [False, True, False, True]  # its weights are ranked together
    third = per_output({"fc": scores["fc"]}, {"fc": masks["fc"]}, Target(3 / 8, 0.5))
    assert third["fc"].tolist() == [[True, True, False, False], [False, True, False, False]]


def test_a_threshold_keeps_what_is_above_it_and_says_when_nothing_is() -> None:
    found = threshold(SCORES, ONES, Target(0.01, 0.01), above=2.0)
    assert [mask.tolist() for mask in found.values()] == [[True, False, False], [True, True, True]]
    found = threshold(SCORES, ONES, Target(0.01, 0.01), above=3.0, floor=1)
    assert [mask.tolist() for mask in found.values()] == [[True, False, False], [True, True, True]]
    assert threshold(SCORES, ONES, Target(0.5, 0.5), above=10.0, spare=["a"])["a"].all()
    with pytest.raises(KeepsNothing, match=r"scope\.above=30: no weight scores more, .*; the highest score is 30$"):
        threshold(SCORES, ONES, Target(0.5, 0.5), above=30.0)
    with pytest.raises(KeepsNothing, match="no weight is unpruned"):
        threshold(SCORES, {name: ~mask for name, mask in ONES.items()}, Target(0.5, 0.5), above=0.0)


# against PyTorch's own


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Linear(40, 10))


def by_pytorch(of: nn.Module) -> Masks:
    return {
        f"{name}.weight": layer.weight_mask.bool()
        for name, layer in of.named_modules()
        if hasattr(layer, "weight_mask")
    }


def ours(of: nn.Module, scope: Scope, density: float) -> Masks:
    weights = {name: weight.detach() for name, weight in of.named_parameters() if name.endswith("weight")}
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    return scope({name: weight.abs() for name, weight in weights.items()}, masks, Target(density, density))


@pytest.mark.parametrize("density", [0.9, 0.5, 0.123, 0.01])
def test_magnitude_everywhere_is_pytorch_s_global_selection(density: float) -> None:
    of = net()
    expected = ours(of, everywhere, density)
    layers = [(layer, "weight") for layer in of]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=904 - round(904 * density))
    assert same(by_pytorch(of), expected)


@pytest.mark.parametrize("density", [0.75, 0.5, 0.25])
def test_magnitude_in_each_layer_is_pytorch_s_selection_in_each(density: float) -> None:
    of = net()
    expected = ours(of, layerwise, density)
    for layer in of:
        prune.l1_unstructured(layer, "weight", amount=1 - density)
    assert same(by_pytorch(of), expected)


def test_random_scores_everywhere_are_pytorch_s_random_selection() -> None:
    of = net()
    layers = [(layer, "weight") for layer in of]
    torch.manual_seed(7)
    drawn = torch.rand(904)  # of which PyTorch prunes the highest
    torch.manual_seed(7)
    prune.global_unstructured(layers, prune.RandomUnstructured, amount=500)
    masks = {name: torch.ones_like(mask) for name, mask in by_pytorch(of).items()}
    parts = drawn.split([mask.numel() for mask in masks.values()])
    scores = {name: -part.view_as(masks[name]) for name, part in zip(masks, parts, strict=True)}
    assert same(everywhere(scores, masks, Target(404 / 904, 0.5)), by_pytorch(of))


def test_where_pytorch_rounds_otherwise() -> None:
    """It rounds how many are pruned, and each layer by itself; here the kept are rounded, of the whole network."""
    of = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False))
    assert [int(mask.sum()) for mask in ours(of, layerwise, 0.5).values()] == [2, 1]
    for layer in of:
        prune.l1_unstructured(layer, "weight", amount=0.5)
    assert [int(mask.sum()) for mask in by_pytorch(of).values()] == [1, 1]
