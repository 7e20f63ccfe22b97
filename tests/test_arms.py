"""Arms: what each one begins its rounds with and how long it trains, against plain PyTorch and sums by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lottery.algorithm import play
from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import derive
from lottery.pruning.masks import Masks
from lottery.rounds.arms import Arm
from lottery.rounds.lengths import as_recipe, last_rate, same_flops
from lottery.rounds.round import Round
from lottery.rounds.study import Cell
from lottery.running.cell import TrainOnce, record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.phases import phase_of, specification
from lottery.training.fit import fit
from lottery.training.learning_rates import constant, cosine, multistep
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Budget, Recipe
from lottery.training.states import State, state_of
from tests.conftest import TINY
from tests.test_rounds import PRUNING, ROUNDS, STEPS, WEIGHTS, assert_equal, initialised, network
from tests.test_rounds import recipe as constant_recipe

LR, COUNTS = 0.1, (222, 111, 56, 28)  # weights kept of 6x12 + 12x10 + 10x3, a half in each round
FACTORS = [1.0] * 6 + [0.1] * 3 + [0.1**2] * 3  # of the 12 steps


def recipe() -> Recipe:
    """A tenth of the rate from step 6, a hundredth from step 9."""
    return replace(
        constant_recipe(), budget=Budget(STEPS, STEPS, STEPS, partial(multistep, milestones=(6, 9), gamma=0.1))
    )


class Trainer:
    """Trains every phase once, and knows which."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.recipe = seed, recipe()
        self.known: dict[tuple[object, ...], Trained] = {}

    def __call__(self, current: Round) -> Trained:
        ticket, index, first, last, budget = (
            current.ticket,
            current.index,
            current.first,
            current.last,
            current.budget,
        )
        rates = [budget.factor(step) for step in range(first, last)]
        key = (digest(ticket.state), digest(ticket.masks), first, tuple(rates), index)
        if key not in self.known:
            order, noise = derive(self.seed, "order", index), derive(self.seed, "noise", index)
            phase = Phase(ticket.state, ticket.masks, first, last, order, noise, budget=budget)
            self.known[key] = fit(self.recipe, phase, evaluate=False)
        return self.known[key]


@cache
def arm(*overrides: str) -> Arm:
    """An arm as its yaml defines it, with steps for the tiny network."""
    return build(cell_configs([*TINY, *(f"arm={o}" if "=" not in o else o for o in overrides)])[0]).arm


def rounds(*overrides: str, seed: int = 0, train: Trainer | None = None) -> list[Round]:
    train = train or Trainer(seed)
    return list(play(train.recipe, PRUNING, arm(*overrides), seed, train))


def trained(state: State, masks: Masks, index: int, factors: Sequence[float], first: int = 0, seed: int = 0) -> State:
    """A ticket after so many steps at these factors of the rate, by a plain loop."""
    net, data = network(), recipe().data
    net.load_state_dict(state)
    weights = dict(net.named_parameters())
    optimizer = SGD(net.parameters(), lr=LR, momentum=0.9)
    batches = data.batches(derive(seed, "order", index), first, first + len(factors))
    for factor, (inputs, targets) in zip(factors, batches, strict=True):
        optimizer.param_groups[0]["lr"] = LR * factor
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name][~mask] = 0
    return state_of(net)


def largest(state: State, count: int, among: Masks | None = None) -> Masks:
    """The `count` largest weights of the network."""
    flat = torch.cat([state[name].abs().flatten() for name in WEIGHTS])
    if among:
        flat[~torch.cat([among[name].flatten() for name in WEIGHTS])] = -1
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.topk(count).indices] = True
    parts = kept.split([state[name].numel() for name in WEIGHTS])
    return {name: part.view(state[name].shape) for name, part in zip(WEIGHTS, parts, strict=True)}


def under(state: State, masks: Masks) -> State:
    return {name: torch.where(masks[name], t, 0.0) if name in masks else t for name, t in state.items()}


def everything() -> Masks:
    return {name: torch.ones_like(initialised(0)[name], dtype=torch.bool) for name in WEIGHTS}


def dense(steps: int = STEPS, seed: int = 0) -> State:
    return trained(initialised(seed), everything(), 0, FACTORS[:steps], seed=seed)


def steps_of(played: Sequence[Round]) -> list[tuple[int, int]]:
    return [(current.first, current.last) for current in played]


every_rewind = pytest.mark.parametrize("rewind", [0, 5])


@every_rewind
def test_one_shot_prunes_the_dense_network_straight_to_each_density(rewind: int) -> None:
    train = Trainer()
    played = rounds("one_shot", f"arm.rewind={rewind}", train=train)
    found, start = dense(), dense(rewind)
    assert len(train.known) == 1 + bool(rewind)  # the dense network, and the way to its rewinding point
    assert steps_of(played) == [(0, STEPS)] + [(rewind, STEPS)] * ROUNDS
    for current, count in zip(played[1:], COUNTS[1:], strict=True):
        assert_equal(current.ticket.masks, largest(found, count))
        assert_equal(current.ticket.state, under(start, largest(found, count)))
    for before, after in pairwise(played):
        assert not any((after.ticket.masks[name] & ~before.ticket.masks[name]).any() for name in WEIGHTS)


def test_imp_and_one_shot_part_in_the_second_round() -> None:
    train = Trainer()
    one, other = rounds("imp", train=train), rounds("one_shot", train=train)
    same = [digest(a.ticket.masks) == digest(b.ticket.masks) for a, b in zip(one, other, strict=True)]
    assert same == [True, True, False, False]


@every_rewind
def test_lr_rewind_goes_on_with_trained_weights_at_an_earlier_learning_rate(rewind: int) -> None:
    played = rounds("lr_rewind", f"arm.rewind={rewind}")
    assert steps_of(played) == [(0, STEPS)] + [(rewind, STEPS)] * ROUNDS
    state, masks = dense(), everything()
    for index, current in enumerate(played[1:], start=1):
        masks = largest(state, COUNTS[index], among=masks)
        assert_equal(current.ticket.masks, masks)
        assert_equal(current.ticket.state, under(state, masks))  # buffers stay as trained, too
        state = trained(under(state, masks), masks, index, FACTORS[rewind:], first=rewind)
        assert_equal(current.trained.state, state)


@pytest.mark.parametrize(("of_recipe", "steps"), [(1.0, 12), (0.3, 4), (1.5, 18)])
def test_finetune_trains_on_at_the_last_learning_rate(of_recipe: float, steps: int) -> None:
    played = rounds("finetune", f"arm.length.of_recipe={of_recipe}")
    assert steps_of(played) == [(0, STEPS)] + [(0, steps)] * ROUNDS
    state, masks = dense(), everything()
    for index, current in enumerate(played[1:], start=1):
        masks = largest(state, COUNTS[index], among=masks)
        assert_equal(current.ticket.masks, masks)
        assert_equal(current.ticket.state, under(state, masks))
        state = trained(under(state, masks), masks, index, [0.1**2] * steps)
        assert_equal(current.trained.state, state)


@every_rewind
def test_finetune_parent_takes_the_network_on_which_the_parent_found_the_masks(rewind: int) -> None:
    train = Trainer()
    parents = rounds("imp", f"arm.rewind={rewind}", train=train)
    played = rounds("finetune_parent", f"arm.rewind={rewind}", train=train)
    assert steps_of(played) == [(0, STEPS)] + [(0, 3)] * ROUNDS
    state, masks, start = dense(), everything(), dense(rewind)
    for index, (current, parent) in enumerate(zip(played[1:], parents[1:], strict=True), start=1):
        masks = largest(state, COUNTS[index], among=masks)
        assert_equal(parent.ticket.masks, masks)
        assert_equal(current.ticket.masks, masks)
        assert_equal(current.ticket.state, under(state, masks))
        assert_equal(current.trained.state, trained(under(state, masks), masks, index, [0.1**2] * 3))
        state = trained(under(start, masks), masks, index, FACTORS[rewind:], first=rewind)  # the parent's next


def test_finetune_parent_of_one_shot_takes_the_dense_network_in_every_round() -> None:
    for current, count in zip(rounds("finetune_parent", "arm.parent=one_shot")[1:], COUNTS[1:], strict=True):
        assert_equal(current.ticket.state, under(dense(), largest(dense(), count)))


def test_scratch_e_is_random_reinit() -> None:
    train = Trainer()
    one, other = rounds("scratch_e", train=train), rounds("random_reinit", train=train)
    assert steps_of(one) == steps_of(other) == [(0, STEPS)] * (ROUNDS + 1)
    for ours, theirs in zip(one, other, strict=True):
        assert_equal(ours.ticket.state, theirs.ticket.state)
        assert_equal(ours.ticket.masks, theirs.ticket.masks)
        assert ours.trained is theirs.trained


def share(masks: Masks) -> float:
    """FLOPs relative to dense: products of the first layer count twice (no input gradient), others three times."""
    left = [int(masks[name].sum()) * times for name, times in zip(WEIGHTS, (2, 3, 3), strict=True)]
    return sum(left) / (72 * 2 + 120 * 3 + 30 * 3)


@pytest.mark.parametrize("cap", [10.0, 3.5])
def test_scratch_b_trains_for_the_dense_network_s_flops(cap: float) -> None:
    train = Trainer()
    played = rounds("scratch_b", f"arm.length.cap={cap}", train=train)
    parents, fresh = rounds("imp", train=train), rounds("random_reinit", train=train)
    lengths = []
    for current, parent, again in zip(played[1:], parents[1:], fresh[1:], strict=True):
        assert_equal(current.ticket.masks, parent.ticket.masks)
        assert_equal(current.ticket.state, again.ticket.state)
        lengths.append(round(12 * min(cap, 1 / share(parent.ticket.masks))))
        assert (current.first, current.last) == (0, lengths[-1])
    assert 12 < lengths[0] < lengths[1] < (lengths[2] if cap == 10 else 43)
    if cap == 3.5:
        assert lengths[-1] == 42
    one = played[1]
    factors = [one.budget.factor(step) for step in range(one.last)]
    assert [factor for factor, before in zip(factors, [None, *factors], strict=False) if factor != before] == [
        1.0,
        0.1,
        pytest.approx(0.01),
    ]
    assert factors.index(0.1) == -(-one.last // 2)  # half of the longer training
    assert_equal(one.trained.state, trained(one.ticket.state, one.ticket.masks, 1, factors))


def test_same_sign_takes_sizes_from_the_new_draw_and_signs_from_the_start() -> None:
    train = Trainer()
    fresh, start = rounds("random_reinit", train=train), initialised(0)
    played = rounds("same_sign", train=train)
    assert steps_of(played) == [(0, STEPS)] * (ROUNDS + 1)
    for current, new in zip(played[1:], fresh[1:], strict=True):
        assert digest(current.ticket.masks) == digest(new.ticket.masks)
        for name, value in new.ticket.state.items():
            got = current.ticket.state[name]
            if name in WEIGHTS:
                mask = current.ticket.masks[name]
                assert torch.equal(got.abs(), value.abs())
                assert torch.equal(got[mask] > 0, start[name][mask] > 0)
                assert (got[mask] != 0).all()
            else:
                assert torch.equal(got, value)
    assert any((new.ticket.state[n].sign() != start[n].sign())[new.ticket.masks[n]].any() for n in WEIGHTS)


@pytest.mark.parametrize(("rewind", "same_sign"), [(0, True), (5, True), (5, False)])
def test_constant_is_one_size_a_layer(rewind: int, same_sign: bool) -> None:
    train = Trainer()
    played = rounds("constant", f"arm.rewind={rewind}", f"arm.weights.same_sign={same_sign}", train=train)
    parents, start = rounds("imp", f"arm.rewind={rewind}", train=train), dense(rewind)
    fresh = rounds("random_reinit", f"arm.rewind={rewind}", train=train)
    assert steps_of(played) == [(0, STEPS)] + [(rewind, STEPS)] * ROUNDS
    for current, parent, new in zip(played[1:], parents[1:], fresh[1:], strict=True):
        assert digest(current.ticket.masks) == digest(parent.ticket.masks)
        for name, value in start.items():
            got = current.ticket.state[name]
            if name not in WEIGHTS:
                assert torch.equal(got, value)
                continue
            mask = current.ticket.masks[name]
            double = value.double()
            size = (
                ((double - double.mean()) ** 2).sum().div(value.numel() - 1).sqrt()
            )  # of all weights, pruned ones too
            assert got[mask].abs().double().numpy() == pytest.approx(float(size), rel=1e-6)
            signs = (value if same_sign else new.ticket.state[name])[mask]
            assert torch.equal(got[mask] > 0, signs > 0)
            assert not got[~mask].any()


DRAWN = ["scratch_e", "same_sign"]


@pytest.mark.parametrize("name", DRAWN)
def test_draws_depend_on_seed_and_round_alone(name: str) -> None:
    one, again, other = rounds(name), rounds(name), rounds(name, seed=1)
    for a, b, c in zip(one[1:], again[1:], other[1:], strict=True):
        assert_equal(a.ticket.state, b.ticket.state)
        assert not any(torch.equal(a.ticket.state[n].abs(), c.ticket.state[n].abs()) for n in WEIGHTS)
    for a, b in pairwise(one[1:]):
        both = {n: a.ticket.masks[n] & b.ticket.masks[n] for n in WEIGHTS}
        assert all((a.ticket.state[n] != b.ticket.state[n])[both[n]].any() for n in WEIGHTS if both[n].any())
        assert any(mask.any() for mask in both.values())


def test_a_parent_has_masks_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"^parent=scratch_e: it has no masks of its own"):
        Arm("child", parent=Arm("scratch_e", parent=Arm("imp")))


# lengths alone

TWELVE = Budget(12, 12, 4, partial(multistep, milestones=(6, 9), gamma=0.5))


def test_as_recipe_changes_nothing() -> None:
    assert as_recipe(TWELVE, 0.3) is TWELVE


def test_a_stretched_training_runs_through_the_same_curve() -> None:
    double = same_flops(TWELVE, 0.5)
    assert (double.steps, double.evaluate) == (24, 4)
    assert [double.factor(step) for step in range(24)] == [1.0] * 12 + [0.5] * 6 + [0.25] * 6
    assert double.factor(12) == TWELVE.factor(6)
    smooth = replace(TWELVE, learning_rate=cosine)
    third = same_flops(smooth, 1 / 3)
    assert [third.factor(3 * step) for step in range(12)] == [smooth.factor(step) for step in range(12)]


def test_warm_up_stretches_too() -> None:
    budget = same_flops(replace(TWELVE, learning_rate=constant, warmup=4), 0.5)
    assert [budget.factor(step) for step in range(9)] == [step / 8 for step in range(1, 9)] + [1.0]


@pytest.mark.parametrize(
    ("share", "cap", "steps"),
    [(1.0, 10.0, 12), (0.5, 10.0, 24), (0.7, 10.0, 17), (0.1, 10.0, 120), (0.01, 10.0, 120), (0.1, 2.5, 30),
     (0.9, 1.0, 12), (0.0, 10.0, 120)],
)  # fmt: skip
def test_steps_of_same_flops(share: float, cap: float, steps: int) -> None:
    assert same_flops(TWELVE, share, cap).steps == steps


def test_nothing_is_left_of_the_recipe_s_curve_in_fine_tuning() -> None:
    held = last_rate(replace(TWELVE, warmup=6), 0.1, of_recipe=0.5)
    assert (held.steps, held.evaluate) == (6, 4)
    assert [held.factor(step) for step in range(6)] == [0.25] * 6


# cells, through the store

CURVE = (
    "budget.recipe_steps=30",
    "budget.learning_rate._target_=lottery.training.learning_rates.multistep",
    "+budget.learning_rate.milestones=[15,25]",
)
SHARED = [  # arms in order, and the trainings that each adds to those before; of two pruned rounds
    ("imp,rewind=10it", 3),
    ("imp", 2),
    ("one_shot", 1),  # its first round is imp's
    ("lr_rewind", 2),
    ("finetune", 2),
    ("finetune_parent", 2),
    ("finetune_parent,length=1", 1),  # its first round is finetune's
    ("random_reinit", 2),
    ("scratch_e", 0),
    ("scratch_b", 2),
    ("scratch_b,cap=1", 0),  # nothing but scratch_e
    ("same_sign", 2),
    ("constant", 2),
    ("random_mask", 2),
]
OVERRIDES = {
    "imp,rewind=10it": ["arm=imp", "arm.rewind=10"],
    "finetune_parent,length=1": ["arm=finetune_parent", "arm.length.of_recipe=1.0"],
    "scratch_b,cap=1": ["arm=scratch_b", "arm.length.cap=1.0"],
}
TRAIN_STEPS = {
    "imp,rewind=10it": [30, 20, 20],
    "finetune_parent": [30, 8, 8],
    "scratch_b": [30, 60, 120],
}


def test_arms_of_one_seed_share_what_can_be_shared(cell: Callable[..., Cell], tmp_path: Path) -> None:
    store, trained = Store(tmp_path / "store"), 0
    for name, new in SHARED:
        overrides = OVERRIDES.get(name, [f"arm={name}"])
        record_cell(cell(*CURVE, *overrides, "schedule.keep=0.5", "scope.output=1"), tmp_path / name, store)
        entries = store.entries().values()
        assert sum(bool(entry["executed"]) for entry in entries) == trained + new, name
        trained += new
        lines = Ledger(tmp_path / name / NAME).lines()
        assert [line["train_steps"] for line in lines] == TRAIN_STEPS.get(name, [30, 30, 30]), name
        assert all("stopped" not in line for line in lines)
    executed = sum(entry["executed"] for entry in store.entries().values())
    assert executed == 30 + 2 * 30 + 2 * 20 + 30 + 2 * 30 + 2 * 30 + 2 * 8 + 30 + 2 * 30 + 60 + 120 + 3 * 60
    by_name = {name: Ledger(tmp_path / name / NAME).lines() for name, _ in SHARED}
    assert len({lines[0]["phase"] for lines in by_name.values()}) == 1
    assert by_name["one_shot"][1]["phase"] == by_name["imp"][1]["phase"]
    assert by_name["scratch_e"][2]["phase"] == by_name["random_reinit"][2]["phase"]


def test_keys_follow_what_training_reads_of_a_budget(cell: Callable[..., Cell], tmp_path: Path) -> None:
    """Compares steps, evaluations and rates, not how they were configured."""
    one = cell(*CURVE)
    recipe, train = one.study.recipe, TrainOnce(one, Store(tmp_path))
    budget = recipe.budget
    ticket = next(play(recipe, one.study.pruning, one.arm, 0, train)).ticket

    def spec(other: Budget) -> dict[str, object]:
        return specification(recipe, one.study.identity, phase_of(recipe, 0, Round(1, ticket, 0, other, train)))

    assert spec(replace(budget)) == spec(budget)
    assert "rates" not in spec(budget)  # and so what was trained before budgets could differ is found
    held = last_rate(budget, 1.0)
    assert spec(held) == spec(last_rate(budget, 0.2)) == spec(replace(held, recipe_steps=7))
    steps = [milestone * 2 for milestone in (15, 25)]
    written_out = Budget(60, 60, budget.evaluate, partial(multistep, milestones=steps))
    assert spec(same_flops(budget, 0.5)) == spec(written_out)
    different = [
        budget,
        held,
        same_flops(budget, 0.5),
        same_flops(budget, 0.4),
        replace(budget, evaluate=15),
        replace(budget, warmup=3),
        *(replace(budget, learning_rate=partial(multistep, milestones=(15, last))) for last in (28, 29)),
        replace(held, learning_rate=partial(constant, factor=0.02)),
    ]
    specs = [spec(other) for other in different]
    assert all(one != other for i, one in enumerate(specs) for other in specs[:i])


# what can't be

REFUSED = {
    ("arm=scratch_b", "arm.length.cap=0.5"): "arm.length.cap=0.5: must be at least 1",
    ("arm=scratch_b", "arm.length.cap=x"): "arm.length.cap=x: must be a number",
    ("arm=finetune", "arm.length.of_recipe=0"): "arm.length.of_recipe=0: leaves no step of the 30 of the recipe",
    ("arm=finetune", "arm.length.of_recipe=-1"): "arm.length.of_recipe=-1: leaves no step of the 30 of the recipe",
    ("arm=finetune", "arm.length.of_recipe=inf"): "arm.length.of_recipe=inf: must be a finite number",
    ("arm=finetune_parent", "arm.length.of_recipe=0.01"): "arm.length.of_recipe=0.01: leaves no step of the 30 of the "
    "recipe",
    ("arm=finetune", "arm.length.of_recipe=0.5", "arm.first=15"): "arm.first=15: must be before the last of the 15 "
    "steps of a round",
    ("arm=finetune", "arm.first=30"): "arm.first=30: must be a step from 0 to 29, before the last (budget.steps=30)",
    (
        "arm=finetune",
        "+arm.length.steps=3",
    ): "arm.length.steps=3: lottery.lengths.last_rate has no such argument; "
    "allowed: of_recipe; ~arm.length.steps takes it out",
    ("arm=one_shot", "arm.iterative=maybe"): "arm.iterative=maybe: must be true or false",
    ("arm=constant", "arm.weights.same_sign=1"): "arm.weights.same_sign=1: must be true or false",
}


@pytest.mark.parametrize(("overrides", "why"), REFUSED.items())
def test_bad_arguments_are_refused_in_one_sentence(overrides: tuple[str, ...], why: str) -> None:
    with pytest.raises(Refused) as refused:
        check(build(cell_configs([*TINY, *overrides])[0]))
    assert str(refused.value) == why


@pytest.mark.parametrize("parent", ["finetune_parent", "scratch_e", "scratch_b", "same_sign", "constant"])
def test_controls_are_no_parents(parent: str) -> None:
    with pytest.raises(Refused) as refused:
        build(cell_configs([*TINY, "arm=scratch_b", f"arm.parent={parent}"])[0])
    said, _, allowed = str(refused.value).partition("; allowed: ")
    assert said == f"arm.parent={parent}: it has no masks of its own"
    assert {"finetune", "imp", "lr_rewind", "one_shot"} <= {*allowed.split(", ")}
    assert not {*allowed.split(", ")} & {"finetune_parent", "scratch_e", "scratch_b", "same_sign", "constant", "ticket"}


@pytest.mark.parametrize("parent", ["one_shot", "lr_rewind", "finetune", "early_bird"])
def test_every_arm_that_prunes_is_a_parent(parent: str) -> None:
    """A parent given by name has the settings of its own yaml."""
    child = build(cell_configs([*TINY, "arm=scratch_e", f"arm.parent={parent}"])[0]).arm
    own = build(cell_configs([*TINY, f"arm={parent}"])[0]).arm
    assert child.parent
    train = Trainer()
    mine, theirs = (list(play(train.recipe, PRUNING, a, 0, train)) for a in (child, own))
    assert [digest(r.ticket.masks) for r in mine] == [digest(r.ticket.masks) for r in theirs]
