"""Criteria that read weights and start, by hand; and the ablation that turns a criterion around."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.pruning.contracts import Criterion, Evidence, Target, choose, score
from lottery.pruning.criteria import (
    corrupted,
    inverted,
    large_initial,
    magnitude,
    magnitude_increase,
    movement,
    opposite_sign,
    same_sign,
    small_final,
    snip,
)
from lottery.pruning.scopes import everywhere
from tests.conftest import TINY
from tests.evidence import evidence_of, linear, scores_of


@pytest.fixture
def evidence() -> Evidence:
    """Four weights: one grew, one shrank, one changed its sign, one came to zero."""
    start = {"weight": torch.tensor([[1.0, -4.0], [0.5, -2.0]])}
    return evidence_of(linear([3.0, -1.0], [-2.0, 0.0]), [], start=start)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (magnitude, [[3, 1], [2, 0]]),
        (small_final, [[-3, -1], [-2, 0]]),
        (large_initial, [[1, 4], [0.5, 2]]),
        (magnitude_increase, [[2, -3], [1.5, -2]]),
        (movement, [[2, 3], [2.5, 2]]),
        (same_sign, [[3, 1], [0, 0]]),
        (opposite_sign, [[0, 0], [2, 0]]),
        (partial(inverted, of=movement), [[-2, -3], [-2.5, -2]]),
    ],
)
def test_scores_of_four_weights_by_hand(criterion: Criterion, expected: list, evidence: Evidence) -> None:
    assert scores_of(criterion, evidence) == {"weight": expected}


def test_a_weight_that_began_at_zero_has_no_sign_to_keep_or_to_change() -> None:
    evidence = evidence_of(linear([3.0, -1.0]), [], start={"weight": torch.zeros(1, 2)})
    assert scores_of(same_sign, evidence) == scores_of(opposite_sign, evidence) == {"weight": [[0, 0]]}


@pytest.mark.parametrize("criterion", [large_initial, magnitude_increase, movement, same_sign, opposite_sign])
def test_scores_do_not_follow_later_training(criterion: Criterion, evidence: Evidence) -> None:
    scores = criterion(evidence)
    before = scores["weight"].clone()
    evidence.net.weight.data.add_(1)
    evidence.start["weight"].add_(1)
    assert torch.equal(scores["weight"], before)


def test_the_lowest_scores_of_the_other_criterion_are_kept(evidence: Evidence) -> None:
    kept = choose(everywhere, score(partial(inverted, of=magnitude), evidence), evidence.masks, Target(0.5, 0.5))
    assert kept["weight"].tolist() == [[False, True], [False, True]]


def test_an_argument_of_the_other_criterion_is_named_by_its_own_key(evidence: Evidence) -> None:
    with pytest.raises(ValueError, match=r"^of\.batches=0: must be at least 1$"):
        inverted(evidence, of=partial(snip, batches=0))


def test_another_criterion_is_a_node_of_its_own() -> None:
    words = ("criterion=inverted", "criterion.of._target_=lottery.criteria.snip", "+criterion.of.batches=3")
    found = build(cell_configs([*TINY, *words])[0]).study.pruning.criterion
    assert (found.func, found.keywords["of"].func, found.keywords["of"].keywords) == (inverted, snip, {"batches": 3})


def pictures() -> Evidence:
    """Two batches of four pictures of three numbers each, with labels 0 to 3."""
    batches = [(torch.arange(12.0).view(4, 1, 1, 3) + 12 * index, torch.arange(4)) for index in range(2)]
    return evidence_of(linear([1.0, 1.0]), batches)


class Seen:
    """A criterion that keeps the batches of two readings."""

    def __init__(self) -> None:
        self.batches: list[list] = []

    def __call__(self, evidence: Evidence) -> dict[str, torch.Tensor]:
        self.batches = [[tuple(part.clone() for part in batch) for batch in evidence.batches] for _ in range(2)]
        return {name: weight.detach() for name, weight in evidence.weights.items()}


@pytest.mark.parametrize("data", ["random_labels", "shuffled_pixels", "half"])
def test_corrupted_data_are_what_they_are_called_and_the_same_in_every_reading(data: str) -> None:
    seen, evidence = Seen(), pictures()
    corrupted(evidence, of=seen, data=data)
    first, second = seen.batches
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    for (inputs, targets), (own, labels) in zip(first, evidence.batches, strict=True):
        whole = 2 if data == "half" else 4
        assert torch.equal(inputs, own[:whole]) == (data != "shuffled_pixels")
        assert torch.equal(inputs.flatten(1).sort(1).values, own.flatten(1)[:whole])  # no number leaves its picture
        assert sorted(targets.tolist()) == list(range(whole))
        assert data == "random_labels" or torch.equal(targets, labels[:whole])
    if data == "random_labels":
        assert [targets.tolist() for _, targets in first] != [[0, 1, 2, 3]] * 2
    if data == "shuffled_pixels":  # pictures have orders of their own
        assert max(len(inputs.view(4, 3).argsort(1).unique(dim=0)) for inputs, _ in first) > 1


def test_corruption_is_drawn_from_the_evidence_and_leaves_its_own_batches() -> None:
    found = []
    for seed in (0, 0, 1):
        evidence = pictures()
        evidence.rng.manual_seed(seed)
        corrupted(evidence, of=(seen := Seen()), data="random_labels")
        found.append([targets.tolist() for _, targets in seen.batches[0]])
        assert [targets.tolist() for _, targets in evidence.batches] == [[0, 1, 2, 3]] * 2
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("data", "batches", "said"),
    [
        ("noise", [], "^data=noise: must be random_labels, shuffled_pixels, half$"),
        ("half", [{"x": torch.ones(1)}], r"^only pairs \(inputs, targets\) of tensors can be corrupted, not a dict$"),
    ],
)
def test_what_can_not_be_corrupted_is_said(data: str, batches: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        corrupted(evidence_of(linear([1.0, 1.0]), batches), of=snip, data=data)
