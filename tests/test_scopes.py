"""Scopes: exact counts, ties, and the densities that Frankle & Carbin print."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from omegaconf import OmegaConf
from torch import Tensor

from lottery.config.groups import CONF, options
from lottery.pruning.contracts import Scope, Scores, Target
from lottery.pruning.densities import apportion
from lottery.pruning.masks import Masks, density, kept
from lottery.pruning.schedules import geometric
from lottery.pruning.scopes import everywhere, layerwise, per_output, rates

exact = settings(deadline=None, derandomize=True, database=None, max_examples=60)

# few values, so that ties are the rule; -0.0 and 0.0 are equal, whatever their bits say
SCORES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(-3, 3, width=32))
DENSITIES = st.one_of(st.floats(0, 1), st.integers(0, 100).map(lambda per_cent: per_cent / 100))
LENET = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "output.weight": (10, 100)}


@st.composite
def networks(draw: Callable) -> tuple[Scores, Masks]:
    shapes = draw(st.lists(array_shapes(min_dims=1, max_dims=3, max_side=5), min_size=1, max_size=4))
    names = [f"{index}.weight" for index in range(len(shapes))]
    scores = [torch.from_numpy(draw(arrays(np.float32, shape, elements=SCORES))) for shape in shapes]
    masks = [
        torch.from_numpy(draw(arrays(bool, shape, elements=st.sampled_from([True, True, False])))) for shape in shapes
    ]
    return dict(zip(names, scores, strict=True)), dict(zip(names, masks, strict=True))


def best(scores: list[Tensor], alive: list[Tensor], count: int) -> list[bool]:
    """The `count` highest unpruned scores, first of a tie first, by a stable sort in numpy."""
    values = np.concatenate([part.numpy().ravel() for part in scores])
    living = np.flatnonzero(np.concatenate([part.numpy().ravel() for part in alive]))
    chosen = np.zeros(values.size, dtype=bool)
    chosen[living[np.argsort(-values[living], kind="stable")][:count]] = True
    return chosen.tolist()


def flat(masks: Masks) -> list[bool]:
    return [value for mask in masks.values() for value in mask.flatten().tolist()]


def size(masks: Masks) -> int:
    return sum(mask.numel() for mask in masks.values())


def noise(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Scores:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}


def ones(shapes: dict[str, tuple[int, ...]]) -> Masks:
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}


@given(networks(), DENSITIES)
@exact
def test_everywhere_is_a_stable_sort_of_the_whole_network(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    found = everywhere(scores, masks, Target(share, 0.5))
    assert flat(found) == best(list(scores.values()), list(masks.values()), round(share * size(masks)))


@given(networks(), DENSITIES)
@exact
def test_everywhere_meets_the_density_to_the_element(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    assert kept(everywhere(scores, masks, Target(share, 0.5))) == min(round(share * size(masks)), kept(masks))


@given(networks(), DENSITIES)
@exact
def test_layerwise_meets_the_density_to_the_element(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    assert kept(layerwise(scores, masks, Target(share, 0.5))) == min(round(share * size(masks)), kept(masks))


@given(networks(), st.integers(0, 64).map(lambda part: part / 64))
@exact
def test_layerwise_gives_the_places_by_largest_remainders(network: tuple[Scores, Masks], share: float) -> None:
    scores, masks = network
    masks = {name: torch.ones_like(mask) for name, mask in masks.items()}
    quotas = [Fraction(share) * mask.numel() for mask in masks.values()]
    counts = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: counts[index] - quotas[index])
    for index in by_remainder[: round(Fraction(share) * size(masks)) - sum(counts)]:
        counts[index] += 1
    found = layerwise(scores, masks, Target(share, 0.5))
    assert [int(mask.sum()) for mask in found.values()] == counts


@pytest.mark.parametrize("sizes", [(45, 12, 2, 58, 42), (3, 3, 3, 3), (1, 9), (1, 1, 1)])
@pytest.mark.parametrize("keep", [0.8, 0.9, 0.97])
def test_layerwise_meets_every_density_of_a_long_schedule(sizes: tuple[int, ...], keep: float) -> None:
    # A layer's share may be rounded down in one round and up in the next: it has no weight left to give then.
    shapes = {str(index): (count,) for index, count in enumerate(sizes)}
    scores, masks = noise(shapes), ones(shapes)
    for target in geometric(rounds=30, keep=keep):
        masks = layerwise(scores, masks, target)
        assert kept(masks) == round(target.density * sum(sizes))


def test_layerwise_rounds_the_total_and_not_the_sum_of_rounded_shares() -> None:
    shapes = {"a": (1,), "b": (9,)}  # 0.15 x 1 + 0.15 x 9 is 1.4999999999999998 in floats, 0.15 x 10 is 1.5
    found = [kept(scope(noise(shapes), ones(shapes), Target(0.15, 0.15))) for scope in (layerwise, everywhere)]
    assert found == [2, 2]


@given(networks(), st.integers(0, 100), st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]))
@exact
def test_rates_prune_the_rounded_share_of_the_living(
    network: tuple[Scores, Masks], per_cent: int, output: Fraction
) -> None:
    scores, masks = network
    factors = [Fraction(1)] * (len(masks) - 1) + [output]
    alive = [int(mask.sum()) for mask in masks.values()]
    expected = [n - round(f * Fraction(100 - per_cent, 100) * n) for f, n in zip(factors, alive, strict=True)]
    found = rates(scores, masks, Target(0.5, per_cent / 100), output=float(output))
    assert [int(mask.sum()) for mask in found.values()] == expected
    for name, count in zip(masks, expected, strict=True):
        assert found[name].flatten().tolist() == best([scores[name]], [masks[name]], count)


def test_rates_give_the_densities_that_the_paper_prints() -> None:
    printed = {3: 51.3, 7: 21.1, 9: 13.5, 11: 8.7, 12: 7.0, 15: 3.6, 16: 2.9, 18: 1.9}
    scores, masks = noise(LENET), ones(LENET)
    alive = [235_200, 30_000, 1_000]
    assert [mask.numel() for mask in masks.values()] == alive
    for index, target in enumerate(geometric(rounds=20, keep=0.8), start=1):
        masks = rates(scores, masks, target)
        alive = [
            n - round(n * rate)
            for n, rate in zip(alive, (Fraction(1, 5), Fraction(1, 5), Fraction(1, 10)), strict=True)
        ]
        assert [int(mask.sum()) for mask in masks.values()] == alive
        if index in printed:
            assert round(100 * density(masks), 1) == printed[index]


def test_rates_of_layers_follow_their_patterns_and_the_later_pattern_wins() -> None:
    shapes = {"conv1.weight": (100,), "conv2.weight": (100,), "fc.weight": (100,), "out.weight": (100,)}
    found = rates(
        noise(shapes), ones(shapes), Target(0.8, 0.8), layers={"conv*": 0.5, "conv2.*": 0.25, "out.weight": 2}
    )
    assert [int(mask.sum()) for mask in found.values()] == [90, 95, 80, 60]


def test_rates_refuse_a_pattern_without_layer_and_a_rate_beyond_one() -> None:
    with pytest.raises(ValueError, match=r"no layer matches 'FC\*'.*fc1\.weight, fc2\.weight, output\.weight"):
        rates(noise(LENET), ones(LENET), Target(0.8, 0.8), layers={"FC*": 1.0})
    with pytest.raises(ValueError, match=r"6 x the rate 0\.2 of output\.weight lies outside"):
        rates(noise(LENET), ones(LENET), Target(0.8, 0.8), output=6)
    with pytest.raises(ValueError, match=r"-1 x the rate 0\.2 of fc1\.weight lies outside"):
        rates(noise(LENET), ones(LENET), Target(0.8, 0.8), layers={"fc1.*": -1})


@given(networks(), DENSITIES, st.data())
@exact
def test_spared_layers_keep_everything_and_the_density_is_that_of_the_others(
    network: tuple[Scores, Masks], share: float, data: st.DataObject
) -> None:
    scores, masks = network
    spared = data.draw(st.lists(st.sampled_from(list(masks)), unique=True, max_size=len(masks) - 1))
    others = {name: mask for name, mask in masks.items() if name not in spared}
    for scope in (everywhere, layerwise):
        found = scope(scores, masks, Target(share, 0.5), spare=spared)
        assert list(found) == list(masks)
        assert all(torch.equal(found[name], masks[name]) for name in spared)
        alone = scope({name: scores[name] for name in others}, others, Target(share, 0.5))
        assert all(torch.equal(found[name], alone[name]) for name in others)


def test_layerwise_keeps_the_same_share_of_every_layer_that_is_not_spared() -> None:
    shapes = {"conv1.weight": (100,), "conv2.weight": (300,), "fc1.weight": (60,), "fc2.weight": (40,)}
    found = layerwise(noise(shapes), ones(shapes), Target(0.4, 0.4), spare=["fc*"])
    assert [int(mask.sum()) for mask in found.values()] == [40, 120, 60, 40]


def test_sparing_refuses_a_pattern_without_layer_and_sparing_all() -> None:
    for scope in (everywhere, layerwise):
        with pytest.raises(
            ValueError, match=r"scope\.spare: no layer matches 'FC\*'.*fc1\.weight, fc2\.weight, output"
        ):
            scope(noise(LENET), ones(LENET), Target(0.8, 0.8), spare=["output.*", "FC*"])
        with pytest.raises(ValueError, match="every layer is spared"):
            scope(noise(LENET), ones(LENET), Target(1.0, 1.0), spare=["*"])


@pytest.mark.parametrize("zeros", [[0.0], [-0.0], [0.0, -0.0], [-0.0, 0.0]])
def test_equal_scores_are_kept_in_order_and_counted_exactly(zeros: list[float]) -> None:
    scores = {"a": torch.tensor(zeros * (60 // len(zeros))).view(6, 10), "b": torch.tensor(zeros * (40 // len(zeros)))}
    masks = {name: torch.ones_like(values, dtype=torch.bool) for name, values in scores.items()}
    assert flat(everywhere(scores, masks, Target(0.37, 0.37))) == [True] * 37 + [False] * 63
    found = layerwise(scores, masks, Target(0.35, 0.35))
    assert flat(found) == [True] * 21 + [False] * 39 + [True] * 14 + [False] * 26


def test_a_weight_beyond_many_zeros_is_kept_first() -> None:
    scores = {"a": torch.zeros(1000)}
    scores["a"][[700, 900]] = torch.tensor([1e-38, 1.0])
    found = everywhere(scores, {"a": torch.ones(1000, dtype=torch.bool)}, Target(0.005, 0.005))
    assert found["a"].nonzero().flatten().tolist() == [0, 1, 2, 700, 900]


def test_a_pruned_weight_is_not_revived_by_the_highest_score() -> None:
    scores, masks = {"a": torch.tensor([9.0, -5.0, 8.0, -6.0])}, {"a": torch.tensor([False, True, False, True])}
    assert everywhere(scores, masks, Target(0.25, 0.5))["a"].tolist() == [False, True, False, False]
    assert everywhere(scores, masks, Target(0.75, 0.5))["a"].tolist() == [False, True, False, True]


@pytest.fixture(params=sorted(options("scope").keys() - {"threshold"}))  # which meets no target
def scope(request: pytest.FixtureRequest) -> partial[Masks]:
    """Each shipped scope, as its yaml configures it."""
    return instantiate(OmegaConf.load(CONF / "scope" / f"{request.param}.yaml"))


@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_every_scope_only_ever_prunes_the_lowest_of_the_living(scope: partial[Masks], levels: int) -> None:
    shapes = {"conv.weight": (4, 3, 3, 3), "fc.weight": (30, 20), "output.weight": (10, 7)}
    masks = ones(shapes)
    for index, target in enumerate(geometric(rounds=8, keep=0.7)):
        scores = {name: (values * levels).floor() for name, values in noise(shapes, seed=index).items()}
        before = {name: mask.clone() for name, mask in masks.items()}
        found = scope(scores, masks, target)
        assert {n: (m.shape, m.dtype) for n, m in found.items()} == {n: (m.shape, m.dtype) for n, m in masks.items()}
        assert list(found) == list(masks)
        assert kept(found) < kept(masks)
        for name, mask in found.items():
            assert torch.equal(masks[name], before[name]), "a scope leaves the masks that it reads as they are"
            assert not (mask & ~before[name]).any()
            competing = mask.flatten(1) if scope.func is per_output else mask.flatten()[None]
            of = zip(competing, *(each[name].view_as(competing) for each in (scores, before)), strict=True)
            for chosen, values, alive in of:
                assert chosen.tolist() == best([values], [alive], int(chosen.sum()))
        masks = found


def test_every_scope_takes_scores_in_any_order_of_names(scope: Scope) -> None:
    shapes = {"fc.weight": (30, 20), "middle.weight": (12,), "output.weight": (10, 7)}
    scores, masks = noise(shapes), ones(shapes)
    backwards = dict(reversed(scores.items()))
    one, other = (scope(given, masks, Target(0.3, 0.3)) for given in (scores, backwards))
    assert flat(one) == flat(other)
    assert list(one) == list(other) == list(shapes)


def test_every_scope_keeps_all_when_asked_to(scope: Scope) -> None:
    masks = {name: mask.flatten()[:50] for name, mask in ones(LENET).items()}
    scores = {name: torch.zeros_like(mask, dtype=torch.float32) for name, mask in masks.items()}
    assert all(flat(scope(scores, masks, Target(1.0, 1.0))))


def test_the_output_layer_of_a_target_is_pruned_at_its_own_rate() -> None:
    masks = {name: torch.ones(10, dtype=torch.bool) for name in ("head.weight", "first.weight")}
    scores = {name: torch.arange(10.0) for name in masks}
    found = rates(scores, masks, Target(density=0.8, keep=0.8, output="head.weight"))
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"head.weight": 9, "first.weight": 8}


def test_places_left_by_full_layers_are_given_to_the_others_in_turn() -> None:
    limits = {"full": 1, "small": 10**6, "large": 10**6}
    assert apportion(10**6, {"full": 10**6 - 2, "small": 0.5, "large": 1.5}, limits) == {
        "full": 1, "small": 499_999, "large": 500_000,
    }  # fmt: skip
