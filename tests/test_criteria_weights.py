"""Criteria that read weights and start, by hand; and the ablation that turns a criterion around."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.pruning.contracts import Criterion, Evidence, Target, choose, score
from lottery.pruning.criteria import (
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
