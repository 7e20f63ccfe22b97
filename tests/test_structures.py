"""Structures: what lives or dies together, by hand, over rounds, in any scope, and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.pruning.contracts import Scope, Scores, Target, choose
from lottery.pruning.masks import Masks, density, kept
from lottery.pruning.schedules import explicit, geometric
from lottery.pruning.scopes import everywhere, isomorphic, lamp, layerwise, per_output, rates
from lottery.pruning.structures import blocks, columns, n_of_m, rows, weights
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from tests.conftest import TINY

exact = settings(deadline=None, derandomize=True, database=None, max_examples=25)
SCOPES: list[Scope] = [everywhere, lamp, layerwise, isomorphic, per_output, rates]


def noise(seed: int = 0, **shapes: tuple[int, ...]) -> tuple[Scores, Masks]:
    rng = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}
    return scores, {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}


def only(structure: Callable[..., Masks], scores: Tensor, share: float, **more: object) -> list[list[int]]:
    found = structure(
        everywhere, {"w": scores}, {"w": torch.ones_like(scores, dtype=torch.bool)}, Target(share, 0.5), **more
    )
    return found["w"].int().tolist()


MATRIX = torch.tensor([
    [9.0, 0.0, 4.0, 4.0],
    [0.0, 0.0, 4.0, 3.0],
    [5.0, 5.0, 1.0, 1.0],
    [5.0, 5.0, 1.0, 8.0],
])  # fmt: skip


def test_by_hand() -> None:
    # blocks: means 2.25, 3.75, 5, 2.75; maxima 9, 4, 5, 8
    assert only(blocks, MATRIX, 0.5, shape=[2, 2]) == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert only(blocks, MATRIX, 0.5, shape=[2, 2], pool="max") == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    # rows: sums 17, 7, 12, 19; columns: 19, 10, 10, 16
    assert only(rows, MATRIX, 0.5) == [[1] * 4, [0] * 4, [0] * 4, [1] * 4]
    assert only(columns, MATRIX, 0.75) == [[1, 1, 0, 1]] * 4
    assert only(n_of_m, MATRIX, 0.5, n=1, m=2) == [[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    # of the candidates 9, 4, 0, 4, 5, 1, 5, 8 the best four; the first of equal ones
    assert only(n_of_m, MATRIX, 0.25, n=1, m=2) == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]]
    assert only(weights, MATRIX, 1 / 16) == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]


def test_rows_of_unequal_length_compete_by_mean_or_by_sum() -> None:
    scores = {"short": torch.full((2, 2), 3.0), "long": torch.full((2, 8), 1.0)}
    masks = {name: torch.ones_like(each, dtype=torch.bool) for name, each in scores.items()}
    for pool, chosen in (("mean", "short"), ("sum", "long")):
        found = rows(everywhere, scores, masks, Target(0.5, 0.5), pool=pool)
        assert [name for name, mask in found.items() if mask.any()] == [chosen]
        assert found[chosen].all()


@pytest.mark.parametrize(("pool", "best"), [("mean", 0), ("sum", 0), ("max", 1), ("norm", 2)])
def test_every_structure_has_the_same_pools(pool: str, best: int) -> None:
    """Sums 7, 4 and 6; largest 2, 4 and 3; 2-norms 3.6, 4 and 4.2."""
    scores = torch.tensor([[2.0, 2.0, 2.0, 1.0], [4.0, 0.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]])
    chosen = [[int(row == best)] * 4 for row in range(3)]
    assert only(rows, scores, 1 / 3, pool=pool) == chosen
    assert only(blocks, scores, 1 / 3, pool=pool, shape=[1, 4]) == chosen
    assert torch.tensor(only(columns, scores.T, 1 / 3, pool=pool)).T.tolist() == chosen


def test_a_norm_takes_no_scores_with_a_sign() -> None:
    scores = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match=r"structure\.pool=norm: 1 of 4 scores are negative"):
        only(rows, scores, 0.5, pool="norm")
    alive = torch.tensor([[True, False], [True, True]])
    assert rows(everywhere, {"w": scores}, {"w": alive}, Target(0.5, 0.5), pool="norm")["w"].tolist()[1] == [True, True]


def test_only_unpruned_weights_of_a_block_are_pooled() -> None:
    scores, alive = torch.tensor([[9.0, 2.0, 4.0, 4.0]]), torch.tensor([[False, True, True, True]])
    for pool in ("mean", "sum", "max", "norm"):
        found = blocks(everywhere, {"w": scores}, {"w": alive}, Target(0.5, 0.5), shape=[1, 2], pool=pool)
        assert found["w"].tolist() == [[False, False, True, True]]


def test_the_inputs_of_a_convolution_are_its_second_dimension() -> None:
    scores, masks = noise(conv=(3, 4, 2, 2))
    scores["conv"][:, 2] += 10
    assert columns(everywhere, scores, masks, Target(0.25, 0.5))["conv"].sum((0, 2, 3)).tolist() == [0, 0, 12, 0]
    scores["conv"][1] += 100
    assert rows(everywhere, scores, masks, Target(1 / 3, 0.5))["conv"].sum((1, 2, 3)).tolist() == [0, 16, 0]
    found = n_of_m(everywhere, scores, masks, Target(0.5, 0.5))["conv"]
    assert torch.equal(found.sum(1), torch.full((3, 2, 2), 2))  # 2 of 4 at every position of every kernel
    assert found[:, 2].all()


def whole(structure: partial[Masks], masks: Masks) -> bool:
    """Whether masks keep to a structure."""
    for mask in masks.values():
        if structure.func is n_of_m:
            n, m = structure.keywords["n"], structure.keywords["m"]
            groups = [mask.movedim(1, -1)[..., start : start + m].sum(-1) for start in range(0, mask.shape[1], m)]
            if max(int(group.max()) for group in groups) > n:
                return False
            continue
        if structure.func is blocks:
            high, wide = structure.keywords["shape"]
            matrix = mask.flatten(1)
            parts = [b for row in matrix.split(high) for b in row.split(wide, dim=1)]
        else:
            parts = list(mask.unbind(0 if structure.func is rows else 1))
        if any(part.any() != part.all() for part in parts):
            return False
    return True


STRUCTURES = {
    "blocks": partial(blocks, shape=[2, 2]), "flat blocks": partial(blocks, shape=[1, 4]), "rows": partial(rows),
    "columns": partial(columns), "2:4": partial(n_of_m, n=2, m=4), "1:2": partial(n_of_m, n=1, m=2),
}  # fmt: skip


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.__name__)
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_lasts_over_rounds_in_every_scope(name: str, scope: Scope) -> None:
    structure = STRUCTURES[name]
    _, masks = noise(conv=(6, 4, 2, 2), fc=(8, 12), out=(4, 8))
    for index, target in enumerate(geometric(6, keep=0.7)):
        if target.density > 0.5 and structure.func is n_of_m:
            continue
        scores, _ = noise(index, conv=(6, 4, 2, 2), fc=(8, 12), out=(4, 8))
        found = choose(partial(structure, scope), scores, masks, target)
        assert whole(structure, found)
        assert kept(found) < kept(masks) or (kept(found) == kept(masks) and scope is rates)  # rounds to none of few
        if structure.func is blocks and scope is not rates:  # counts blocks, of one size
            size = prod(structure.keywords["shape"])
            assert kept(found) == size * round(target.density * 224 / size)
        if structure.func is n_of_m and scope is not rates:
            assert kept(found) == round(target.density * 224)
        masks = found


@given(st.integers(0, 2**32), st.sampled_from(sorted(STRUCTURES)), st.floats(0.05, 0.5), st.booleans())
@exact
def test_nothing_comes_back_whatever_masks_it_begins_with(seed: int, name: str, share: float, ties: bool) -> None:
    scores, masks = noise(seed % 2**31, conv=(4, 8, 1, 2), fc=(2, 4))
    masks = {
        key: torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.6 for key, mask in masks.items()
    }
    if ties:
        scores = {key: (3 * each).floor() for key, each in scores.items()}
    before = {key: mask.clone() for key, mask in masks.items()}
    found = choose(partial(STRUCTURES[name], everywhere), scores, masks, Target(share, 0.5))
    assert all(torch.equal(masks[key], before[key]) for key in masks)
    again = choose(partial(STRUCTURES[name], everywhere), scores, found, Target(share, 0.5))
    assert all(torch.equal(again[key], found[key]) for key in found)


def test_two_of_four_at_its_density_keeps_all_candidates_in_every_scope() -> None:
    scores, masks = noise(conv=(6, 4, 3, 3), fc=(8, 12))
    for scope in SCOPES:
        found = n_of_m(scope, scores, masks, Target(0.5, 0.5, output="fc"))
        assert density(found) == 0.5, scope
        assert all(int(mask.sum()) == mask.numel() // 2 for mask in found.values())
    # a fifth of them is pruned by a rate of what lives, in a later round
    [_, target] = explicit([0.5, 0.4])
    again = n_of_m(partial(rates, output=1.0), scores, found, target)
    assert {name: int(mask.sum()) for name, mask in again.items()} == {"conv": 86, "fc": 38}  # of 108, 48


def test_layers_without_weights_and_parameters_of_one_dimension() -> None:
    scores, masks = noise(empty=(0, 4), bias=(4,))
    assert kept(rows(everywhere, scores, masks, Target(0.5, 0.5))) == 2
    assert kept(blocks(everywhere, scores, masks, Target(0.5, 0.5), shape=[2, 1])) == 2
    assert kept(columns(everywhere, *noise(empty=(4, 0), w=(2, 4)), Target(0.5, 0.5))) == 4
    with pytest.raises(
        ValueError, match=r"^structure: there are no inputs to bias; prune\.exclude=bias leaves it whole"
    ):
        columns(everywhere, scores, masks, Target(0.5, 0.5))


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (partial(blocks, shape=[2, 0]), r"structure\.shape=\[2, 0\]: must be two whole numbers, 1 or more"),
        (partial(blocks, shape=[2, 2, 2]), r"structure\.shape=\[2, 2, 2\]: must be two whole numbers"),
        (partial(blocks, shape=[2, 4]), r"structure\.shape=\[2, 4\]: does not divide conv, 4 x 27 weights; "
         r"prune\.exclude=\[conv,fc\] leaves these 2 whole"),
        (partial(blocks, shape=[2, 1], pool="min"), r"structure\.pool=min: must be one of mean, sum, max, norm$"),
        (partial(rows, pool="min"), r"structure\.pool=min: must be one of mean, sum, max, norm$"),
        (partial(n_of_m, n=0), r"structure\.n=0: must lie between 1 and structure\.m=4"),
        (partial(n_of_m, n=5), r"structure\.n=5: must lie between 1 and structure\.m=4"),
        (n_of_m, r"structure\.m=4: does not divide the inputs of conv, 3; prune\.exclude=\[conv,fc\] leaves"),
        (partial(n_of_m, n=1, m=3), r"structure\.n=1: 1 of 3 weights have a density of 0\.333333 at most, and "
         r"0\.5 is asked for"),
    ],
)  # fmt: skip
def test_what_a_structure_refuses(structure: Callable[..., Masks], said: str) -> None:
    scores, masks = noise(conv=(4, 3, 3, 3), fc=(2, 6))
    with pytest.raises(ValueError, match=f"^{said}"):
        structure(everywhere, scores, masks, Target(0.5, 0.5))


def test_a_scope_that_gives_no_masks_of_the_groups_is_told_so() -> None:
    scores, masks = noise(w=(4, 4))
    with pytest.raises(ValueError, match=r"the mask of w is torch.bool of shape \(4, 4\), not boolean of \(4,\)"):
        rows(lambda *_: masks, scores, masks, Target(0.5, 0.5))


# on the command line


def made(*overrides: str) -> Cell:
    cell = build(cell_configs([*TINY, "hardware.accelerator=cpu", *overrides])[0])
    check(cell)
    return cell


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["structure=blocks"], "structure.shape=[4, 4]: does not divide output.weight, 10 x 100 weights; "
         "prune.exclude=output.weight leaves it whole"),
        (["structure=blocks", "structure.shape=[2,x]"], "structure.shape=[2, 'x']: must be a list of whole numbers"),
        (["structure=blocks", "structure.pool=min"], None),
        (["structure=n_of_m"], "structure.n=2: 2 of 4 weights have a density of 0.5 at most, and 0.8 is asked for (by "
         "the schedule, or by arm.during.initial)"),  # by the first of two rounds alone
        (["structure=n_of_m", "structure.m=3"], "structure.m=3: does not divide the inputs of fc1.weight, 64; "
         "prune.exclude=[fc1.weight,output.weight] leaves these 2 whole"),
        (["structure=n_of_m", "structure.n=5"], "structure.n=5: must lie between 1 and structure.m=4"),
        (["structure=rows", "+structure.shape=[2,2]"], "structure.shape=[2, 2]: lottery.structures.rows has no such "
         "argument; allowed: pool; ~structure.shape takes it out"),
        (["structure=row"], "structure=row: there is no such structure; did you mean rows? allowed: blocks, channels, "
         "columns, n_of_m, rows, weights"),
        (["scope=everywhere", "+scope.floor=-1"], "scope.floor=-1: must be 0 or more"),
        (["scope=lamp", "scope.floor=40000"], None),
        (["scope=threshold", "scope.above=high"], "scope.above=high: must be a number"),
        (["scope=smart_ratio", "scope.output=2"], "scope.output=2: must lie in [0, 1]"),
        (["structure=rows", "scope=erk", "scope.spare=[fc9]"], "scope.spare: no layer matches 'fc9'; the layers are "
         "fc1.weight, fc2.weight, output.weight"),
    ],
)  # fmt: skip
def test_what_is_refused_before_training(overrides: list[str], said: str | None) -> None:
    if "structure.pool=min" in overrides:
        overrides, said = (
            [*overrides, "structure.shape=[2,4]"],
            "structure.pool=min: must be one of mean, sum, max, norm",
        )
    if "scope.floor=40000" in overrides:  # in the second round, of 50,200 weights 32,128
        said = "scope.floor=40000: 3 layers keep 50200 weights at the least, and the density asked for leaves 40160"
    with pytest.raises(Refused) as refused:
        made(*overrides)
    assert str(refused.value) == said


def test_a_threshold_that_training_may_reach_is_not_refused_before_it() -> None:
    made("scope=threshold", "scope.above=1e9")


def test_a_study_with_a_structure_is_another_and_none_is_as_before() -> None:
    plain, two, one = (
        cell_configs(list(words))[0] for words in ([], ["structure=n_of_m"], ["structure=n_of_m", "structure.n=1"])
    )
    assert (plain.study, plain.digest) == ("lenet_300_100-digits-f4003c6b", "2c11551c036a993f")
    assert len({each.study for each in (plain, two, one)}) == len({each.digest for each in (plain, two, one)}) == 3
    assert plain.config.get("structure") is None
    # training a ticket depends on its masks alone, however they were found
    assert "structure" not in build(two).study.identity


def test_a_study_keeps_to_its_structure(tmp_path: object) -> None:
    [job] = cell_configs([
        "data=digits", "tracking.mode=disabled", "hardware=cpu", "budget.steps=4", "budget.evaluate=2",
        "structure=n_of_m", "scope=everywhere",
        "schedule=explicit", "schedule.densities=[0.5,0.4]", f"out={tmp_path}",
    ])  # fmt: skip
    run_cell(job)
    lines = Ledger(job.folder / NAME).lines()
    assert [line["density"] for line in lines] == [1.0, 0.5, 20_080 / 50_200]
    assert set(lines[1]["layer_densities"].values()) == {0.5}
