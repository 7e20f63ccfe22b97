"""Masks that change while a phase trains: by formula, as a plain loop does it, and resumed at every step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop

from lottery.algorithm import play
from lottery.commands.ticket.export import exported
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import generator
from lottery.pruning import growth
from lottery.pruning.contracts import Evidence, Target
from lottery.pruning.criteria import magnitude
from lottery.pruning.masks import dense, density, kept
from lottery.pruning.schedules import geometric, linear, one_shot
from lottery.pruning.scopes import layerwise, rates
from lottery.rounds.prune import scoring_flops
from lottery.rounds.study import Cell
from lottery.running.cell import TrainOnce, record_cell
from lottery.running.launch import run_cell
from lottery.running.progress import Progress
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.phases import specification
from lottery.training import loop
from lottery.training.changes import Changes, Gradual, Moment, Rewiring, Rule, at_the_end, cubic, straight
from lottery.training.changing import Changing, check_optimizers
from lottery.training.fit import fit
from lottery.training.modules import Classifier
from lottery.training.phase import Diverged, Phase
from lottery.training.states import State, state_of
from tests.conftest import TINY
from tests.test_training import STEPS, Killed, Memory, equal, network, phase, recipe


def moment(weights: list[float], living: list[bool], **more: Any) -> Moment:
    """A network of one layer; `gradients` are those of its weights."""
    net = nn.Linear(len(weights), 1, bias=False)
    net.weight.data = torch.tensor([weights])
    masks = {"weight": torch.tensor([living])}
    evidence = Evidence(net, {}, masks, [], net, lambda batch: net(batch).sum(), generator(0))
    gradients = {"weight": torch.tensor([more.pop("gradients", [0.0] * len(weights))])}
    return Moment(
        **{"step": 10, "of": 100, "density": 0.5, "masks": masks, "evidence": evidence, "gradients": gradients, **more}
    )


# by hand


@pytest.mark.parametrize("initial", [1.0, 0.6])
def test_the_cubic_schedule_is_the_papers_at_every_step(initial: float) -> None:
    rule, of, final = Gradual(every=7, begin=10, end=80, initial=initial), 100, 0.1
    assert rule.steps(of) == [10, 17, 24, 31, 38, 45, 52, 59, 66, 73, 80]
    for step in rule.steps(of):
        n, interval = 10, 7  # equation 1, in sparsities
        sparsity = (1 - final) + ((1 - initial) - (1 - final)) * (1 - (step - 10) / (n * interval)) ** 3
        assert rule.density(step, of, final) == pytest.approx(1 - sparsity, abs=1e-12)
    assert rule.density(80, of, final) == final


def test_other_curves() -> None:
    assert [cubic(p) for p in (0, 0.5, 1)] == [0, 0.875, 1]
    assert [straight(p) for p in (0, 0.25, 1)] == [0, 0.25, 1]
    assert [at_the_end(p) for p in (0, 0.99, 1)] == [0, 0, 1]


def test_gradual_pruning_prunes_the_smallest_to_the_density_of_the_step_and_revives_none() -> None:
    rule = Gradual(every=10, begin=0, end=20, curve=straight, criterion=magnitude, scope=layerwise)
    at = moment([4.0, 3.0, 2.0, 1.0, 5.0, 6.0, 7.0, 8.0], [True] * 7 + [False], density=0.25)
    # after half of the way from 8 weights to 2: 5, of which the eighth, though largest, is none
    assert rule.masks(at)["weight"].tolist() == [[True, True, False, False, True, True, True, False]]


def test_gradual_pruning_at_rates_prunes_each_layer_as_a_chain_of_rounds_does() -> None:
    """The output layer is pruned at half of the rate: that it keeps more must not be paid for by the others."""
    rule = Gradual(every=2, begin=1, end=8, criterion=magnitude, scope=rates)
    work = working(rule, final=0.1)
    trained = fit(recipe(), work)
    left, before = {name: mask.numel() for name, mask in work.masks.items()}, 1.0
    for change in trained.changed:
        rate = 1 - rule.density(change["step"], STEPS, 0.1) / before
        before *= 1 - rate
        for name in left:
            left[name] -= round((rate / 2 if name == list(left)[-1] else rate) * left[name])
        counts = {name: share * work.masks[name].numel() for name, share in change["densities"].items()}
        assert counts == pytest.approx(left)
    assert before == pytest.approx(0.1)


def test_phases_of_gradual_pruning_by_measured_densities_are_not_taken_for_those_by_planned_ones(
    short: Callable[..., Cell],
) -> None:
    assert short("arm=gradual", "arm.during.every=10it").arm.during_identity["keep"] == "planned"
    assert "keep" not in short("arm=set", "arm.during.every=10it").arm.during_identity


def test_a_change_of_set_drops_the_smallest_and_grows_as_many_at_random() -> None:
    rule = Rewiring(every=10, end=90, fraction=partial(growth.constant, share=0.5))
    grown = set()
    for seed in range(200):
        at = moment([4.0, -0.5, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0], [True] * 4 + [False] * 4)
        at.evidence.rng.manual_seed(seed)
        mask = rule.masks(at)["weight"][0].tolist()
        assert sum(mask) == 4
        assert mask[0]
        assert mask[2]
        grown.add(tuple(mask))
    assert len(grown) == 15  # two of the six others; what was just dropped may come back, as in the authors' code


def test_a_change_of_rigl_grows_where_the_gradient_is_largest() -> None:
    rule = Rewiring(
        every=10, end=20, fraction=partial(growth.cosine, share=0.5), growth=growth.by_gradient, in_place_of_a_step=True
    )
    weights, living = [4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0], [True] * 4 + [False] * 4
    at = moment(weights, living, gradients=[9.0, 9.0, 9.0, 0.1, 0.2, -7.0, 0.5, 0.0])
    # half of the way to the last change the share is 0.25: one of four
    assert rule.masks(at)["weight"].tolist() == [[True, True, True, False, False, True, False, False]]
    at = replace(at, step=0)  # a half: the third is dropped too, and its gradient brings it back
    assert rule.masks(at)["weight"].tolist() == [[True, True, True, False, False, True, False, False]]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([math.nan, 1.0, math.inf, 2.0], "2 of 4 scores of weight are not finite"),
        ([1.0, 2.0, 3.0], r"scores of weight have shape \(1, 3\), its mask \(1, 4\)"),
        ([1, 2, 3, 4], "scores of weight are torch.int64, not floats"),
        (None, "scores and masks differ in weight"),
    ],
)
def test_scores_of_a_growth_are_checked_as_those_of_a_criterion(scores: list[Any] | None, said: str) -> None:
    def mine(ground: growth.Ground) -> dict[str, Tensor]:
        return {} if scores is None else {"weight": torch.tensor([scores])}

    rule = Rewiring(every=10, end=90, fraction=partial(growth.constant, share=0.5), growth=mine)
    with pytest.raises(ValueError, match=f"^growth mine: {said}$"):
        rule.masks(moment([4.0, 3.0, 0.0, 0.0], [True, True, False, False]))


def test_rewiring_leaves_the_count_of_every_layer() -> None:
    net = network()
    living = phase().masks
    evidence = Evidence(net, {}, living, [], net, lambda batch: net(batch).sum(), generator(1))
    gradients = {name: torch.randn(mask.shape, generator=generator(2)) for name, mask in living.items()}
    for share in (0.01, 0.3, 0.77, 0.99):
        for grow in (growth.at_random, growth.by_gradient):
            rule = Rewiring(every=1, end=9, fraction=partial(growth.constant, share=share), growth=grow)
            found = rule.masks(Moment(3, 12, 0.5, living, evidence, gradients))
            assert {n: int(m.sum()) for n, m in found.items()} == {n: int(m.sum()) for n, m in living.items()}


def test_dates() -> None:
    assert Gradual(every=100).steps(1000) == [0, 100, 200, 300, 400, 500, 600, 700, 750]
    assert Rewiring(every=100).steps(1000) == [100, 200, 300, 400, 500, 600, 700]
    assert Rewiring(every=100, begin=0, end=300).steps(1000) == [0, 100, 200]
    assert Gradual(every=5, begin=10, end=10).steps(20) == [10]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gradual(every=0), "every=0: must be at least 1 step"),
        (lambda: Gradual(every=1, begin=-1), "begin=-1: must be 0 or more steps"),
        (lambda: Gradual(every=1, begin=5, end=4), "end=4: must not be before begin, step 5"),
        (lambda: Gradual(every=1, initial=0), r"initial=0: must lie in \(0, 1\]"),
        (lambda: Gradual(every=1, end=20).steps(20), "end=20: must be before the last of the 20 steps of a round"),
        (lambda: Rewiring(every=30).steps(20), "every=30: must not be after the last change at step 15"),
        (lambda: growth.constant(1, 2, share=1.0), r"fraction.share=1: must lie inside \(0, 1\)"),
        (lambda: growth.cosine(1, 2, share=0.0), r"fraction.share=0: must lie inside \(0, 1\)"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        make()


# in training, against a plain loop


RULES: dict[str, Rule] = {
    "gradual": Gradual(every=2, begin=1, end=8, criterion=magnitude, scope=layerwise),
    "set": Rewiring(every=2, end=11),
    "rigl": Rewiring(
        every=2, end=11, fraction=growth.cosine, growth=growth.by_gradient, in_place_of_a_step=True
    ),
}  # fmt: skip


def working(rule: Rule, final: float = 0.3) -> Phase:
    begin = phase(keep=0.4)
    if rule.begins_dense:
        begin = replace(begin, masks=dense(begin.masks))
    return replace(begin, changes=Changes(rule, final, {"of": "a test"}))


@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=0.05, momentum=0.9), partial(Adam, lr=0.01)], ids=["sgd", "adam"]
)
def test_rigl_is_that_of_a_plain_loop(optimizer: Callable[..., Any]) -> None:
    same, work = recipe(optimizer=optimizer), working(RULES["rigl"])
    trained = fit(same, work)
    net = network()
    net.load_state_dict(work.state)
    masks = {name: mask.clone() for name, mask in work.masks.items()}
    weights = {name: weight for name, weight in net.named_parameters() if name in masks}
    own = optimizer(net.parameters())
    rate = own.param_groups[0]["lr"]
    changes = 0
    with torch.random.fork_rng():
        torch.manual_seed(work.noise)
        for name, weight in weights.items():
            weight.data[~masks[name]] = 0
        for step, (inputs, targets) in enumerate(same.data.batches(work.order, 0, STEPS)):
            own.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
            own.zero_grad()
            functional.cross_entropy(net(inputs), targets).backward()
            if step in (2, 4, 6, 8, 10):
                changes += 1
                share = 0.3 / 2 * (1 + math.cos(math.pi * step / 11))
                for name, weight in weights.items():
                    old = masks[name]
                    count = round(share * int(old.sum()))
                    size = weight.detach().abs().masked_fill(~old, -1).flatten()
                    left = torch.zeros_like(old)  # of equal ones, the first stay
                    left.view(-1)[size.argsort(descending=True, stable=True)[: int(old.sum()) - count]] = True
                    score = weight.grad.abs().masked_fill(left, -1).flatten()
                    new = left.clone()
                    new.view(-1)[score.argsort(descending=True, stable=True)[:count]] = True
                    masks[name] = new
                    with torch.no_grad():
                        weight.mul_(new)
                        for values in own.state[weight].values():
                            if values.shape == weight.shape:
                                values[new & ~old] = 0
                continue
            own.step()
            for name, weight in weights.items():
                weight.data[~masks[name]] = 0
    assert changes == len(trained.changed) == 5
    assert equal(trained.masks, masks)
    assert not equal(trained.masks, work.masks)
    assert equal(trained.state, state_of(net))


@pytest.mark.parametrize("kind", RULES)
def test_pruned_weights_are_zero_and_the_counts_are_those_of_the_rule(kind: str) -> None:
    work = working(RULES[kind])
    trained = fit(recipe(), work)
    assert not any(trained.state[name][~mask].any() for name, mask in trained.masks.items())
    assert [change["step"] for change in trained.changed] == RULES[kind].steps(STEPS)
    if kind == "gradual":
        assert kept(trained.masks) == round(0.3 * (6 * 16 + 16 * 8 + 8 * 3))
        shares = [sum(c["densities"].values()) for c in trained.changed]
        assert shares == sorted(shares, reverse=True)
    else:
        counts = {name: int(mask.sum()) for name, mask in work.masks.items()}
        assert {name: int(mask.sum()) for name, mask in trained.masks.items()} == counts
    assert trained.changed[-1]["densities"] == {name: density({name: mask}) for name, mask in trained.masks.items()}


@pytest.mark.parametrize("kind", RULES)
def test_a_training_goes_on_from_every_step_to_the_same_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 1)
    same, work, undisturbed = recipe(), working(RULES[kind]), Memory()
    whole = fit(same, work, undisturbed)
    assert [json.loads(info)["step"] for _, info in undisturbed.saved] == list(range(1, STEPS + 1))
    for kill_after in range(1, STEPS + 1):
        disturbed = Memory(kill_after)
        with pytest.raises(Killed):
            fit(same, work, disturbed)
        disturbed.kill_after = 0
        resumed = fit(same, work, disturbed)
        assert equal(resumed.state, whole.state)
        assert equal(resumed.masks, whole.masks)
        assert resumed.changed == whole.changed
        assert resumed.rows == whole.rows
        assert equal(disturbed.saved[-1][0], undisturbed.saved[-1][0])


@pytest.mark.parametrize("kind", RULES)
def test_where_chunks_end_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work, found = working(RULES[kind]), []
    for chunk in (1, 5, 100):
        monkeypatch.setattr(loop, "CHUNK", chunk)
        found.append(fit(recipe(), work))
    assert all(equal(each.state, found[0].state) and equal(each.masks, found[0].masks) for each in found)


def test_a_waypoint_has_the_masks_of_its_step() -> None:
    work, passed = working(RULES["gradual"]), Memory()
    fit(recipe(), work, passed, waypoints=[4])
    cut = fit(recipe(), replace(work, last=4))
    assert equal(passed.masks[4], cut.masks)
    assert equal(passed.passed[4], cut.state)
    assert kept(cut.masks) == round(RULES["gradual"].density(3, STEPS, 0.3) * 248)


@pytest.mark.parametrize("kind", ["set", "rigl"])
def test_frozen_layers_keep_their_masks(kind: str) -> None:
    """What would grow there stays zero, and what would be dropped was all that the layer had."""

    def frozen() -> nn.Module:
        net = network()
        net[0].weight.requires_grad_(False)
        return net

    work = working(RULES[kind])
    trained = fit(recipe(network=frozen), work)
    assert [name for name, mask in trained.masks.items() if torch.equal(mask, work.masks[name])] == ["0.weight"]
    assert torch.equal(trained.state["0.weight"], work.state["0.weight"] * work.masks["0.weight"])


def test_phases_in_which_masks_of_frozen_layers_changed_are_not_taken_for_others() -> None:
    def keys(network: Callable[[], nn.Module]) -> Mapping[str, Any]:
        changes: Mapping[str, Any] = specification(recipe(network=network), {}, working(RULES["set"]))["changes"]
        return changes

    assert "frozen" not in keys(network)
    assert keys(lambda: network().requires_grad_(False))["frozen"] == list(working(RULES["set"]).masks)


def halving(evidence: Evidence) -> dict[str, Tensor]:
    found = magnitude(evidence)
    next(iter(evidence.weights.values())).data.mul_(0.5)
    return found


def freezing(evidence: Evidence) -> dict[str, Tensor]:
    evidence.net.requires_grad_(False)
    return magnitude(evidence)


def touching_a_buffer(evidence: Evidence) -> dict[str, Tensor]:
    for buffer in evidence.net.buffers():
        buffer.add_(1)
    return magnitude(evidence)


@pytest.mark.parametrize(
    ("criterion", "changed"),
    [
        (halving, "0.weight of the network"),
        (freezing, "whether 0.weight takes gradients"),
        (touching_a_buffer, "1.running_mean of the network"),
    ],
)
def test_a_criterion_that_changes_the_network_in_training_is_named(
    criterion: Callable[[Evidence], dict[str, Tensor]], changed: str
) -> None:
    for kind, more in (("gradual", ""), ("set", " or growth at_random")):
        rule: Any = RULES[kind]
        with pytest.raises(
            ValueError, match=f"^criterion {criterion.__name__}{more}: changes {changed}, which it must"
        ):
            fit(recipe(), working(replace(rule, criterion=criterion)))


def test_a_network_with_a_buffer_of_nans_is_left_as_it_is() -> None:
    class Padded(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*network())
            self.register_buffer("nothing", torch.tensor([math.nan, math.inf]))

    work = working(RULES["set"])
    state = {**work.state, "nothing": torch.tensor([math.nan, math.inf])}
    assert fit(recipe(network=Padded), replace(work, state=state)).changed


def test_a_criterion_that_changes_the_network_is_refused_before_training(short: Callable[..., Cell]) -> None:
    cell = short("arm=set", "arm.during.every=10it")
    rule: Any = cell.arm.during
    with pytest.raises(
        Refused, match=r"^arm\.during: criterion halving or growth at_random: changes fc1\.weight of the"
    ):
        check(replace(cell, arm=replace(cell.arm, during=replace(rule, criterion=halving))))


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (partial(Rprop, lr=0.01), "Rprop, which begins with its step sizes at lr, where"),
        (partial(Adagrad, lr=0.1, initial_accumulator_value=0.1), "Adagrad, which begins with initial_accumulator_val"),
    ],
)
def test_an_optimizer_that_does_not_begin_at_zero_is_refused_before_training(
    optimizer: Callable[..., Any], said: str, short: Callable[..., Cell]
) -> None:
    cell = short("arm=set", "arm.during.every=10it")
    study = cell.study
    cell = replace(cell, study=replace(study, recipe=replace(study.recipe, optimizer=optimizer)))
    with pytest.raises(Refused, match=rf"^arm\.during: goes without {said}"):
        check(cell)
    static = short("arm=at_init").arm
    check(replace(cell, arm=static))


@pytest.mark.parametrize(
    "make", [SGD, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Adadelta, Adagrad, ASGD], ids=lambda each: each.__name__
)
def test_optimizers_that_begin_at_zero_are_taken(make: Callable[..., Any]) -> None:
    """A step with gradients of zero leaves what they keep of each weight as it begins: at zero, or within their eps."""
    weight = nn.Parameter(torch.zeros(2, 3))
    optimizer = make([weight], lr=0.1)
    check_optimizers([optimizer])
    weight.grad = torch.zeros(2, 3)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
    assert all(value.abs().max() <= 1e-8 for value in kept)


# whole arms


def shown(cell: Cell, folder: Path) -> list[Mapping[str, Any]]:
    record_cell(cell, folder, Store(folder.parent / "store"))
    return Ledger(folder / NAME).lines()


@pytest.fixture
def short(cell: Callable[..., Cell]) -> Callable[..., Cell]:
    return lambda *more: cell("budget.steps=40", "budget.evaluate=20", "hardware=cpu", *more)


def test_flops_of_a_training_are_counted_under_the_masks_of_each_step(
    short: Callable[..., Cell], tmp_path: Path
) -> None:
    sizes = {"fc1.weight": 64 * 300, "fc2.weight": 300 * 100, "output.weight": 100 * 10}
    # forward and both gradients for every layer but the first, whose inputs need none
    costs = {name: 2 * size * 60 * (2 if name == "fc1.weight" else 3) for name, size in sizes.items()}
    whole = sum(costs.values())

    def at(densities: Mapping[str, float]) -> float:
        return sum(cost * densities[name] for name, cost in costs.items())

    one = ("schedule.rounds=1", "schedule.keep=0.4", "arm.during.every=10it")
    cell = short("arm=gradual", "scope=everywhere", *one)
    line = shown(cell, tmp_path / "gradual")[1]
    entry = Store(tmp_path / "store").find(line["phase"])
    assert entry is not None
    assert [change["step"] for change in entry.changed] == [0, 10, 20, 30]
    assert line["density"] == round(0.4 * sum(sizes.values())) / sum(sizes.values())
    expected = sum(10 * at(change["densities"]) for change in entry.changed)
    assert line["train_flops"] == pytest.approx(expected, rel=1e-12)
    assert line["train_flops_dense"] == 40 * whole
    assert line["total_flops"] == line["train_flops"]  # nothing was trained to find its masks

    cell = short("arm=rigl", *one)
    line = shown(cell, tmp_path / "rigl")[1]
    same = line["layer_densities"]
    # steps 10 and 20 compute the gradients of all weights: a third of a step is dense
    expected = 38 * at(same) + 2 * (2 * at(same) + whole) / 3
    assert line["train_flops"] == pytest.approx(expected, rel=1e-12)


def test_a_second_run_finds_changed_masks_in_the_store(short: Callable[..., Cell], tmp_path: Path) -> None:
    cell = short("arm=set", "arm.during.every=10it", "schedule.rounds=1")
    first = shown(cell, tmp_path / "one")
    again = shown(cell, tmp_path / "two")
    assert [{**line, "run": None} for line in again] == [{**line, "run": None} for line in first]
    assert all(line["run"]["reused"] for line in again)


def test_another_setting_of_the_rule_is_another_phase(short: Callable[..., Cell], tmp_path: Path) -> None:
    found = set()
    for more in ([], ["arm.during.fraction.share=0.2"], ["arm.during.every=11it"], ["arm.during.end=20it"]):
        cell = short("arm=rigl", "arm.during.every=10it", "schedule.rounds=1", *more)
        found.add(shown(cell, tmp_path / str(len(found)))[1]["phase"])
    assert len(found) == 4


def test_a_control_gets_the_masks_that_its_parent_ended_with(short: Callable[..., Cell], tmp_path: Path) -> None:
    rule = ("arm.during.every=10it",)
    cell = short("arm=set", *rule, "schedule.rounds=1")
    parent = list(play(cell.study.recipe, cell.study.pruning, cell.arm, 0, TrainOnce(cell, Store(tmp_path))))[1]
    twin = short("arm=random_reinit", "arm.parent=set", "schedule.rounds=1")
    theirs = twin.arm.parent
    assert theirs is not None
    assert theirs.during is not None
    twin = replace(twin, arm=replace(twin.arm, parent=cell.arm))
    control = list(play(twin.study.recipe, twin.study.pruning, twin.arm, 0, TrainOnce(twin, Store(tmp_path))))[1]
    assert equal(control.ticket.masks, parent.trained.masks)
    assert not equal(control.ticket.masks, parent.ticket.masks)
    own = control.own_cost(twin.study.recipe).scaled
    assert control.cost(twin.study.recipe).scaled == parent.cost(cell.study.recipe).scaled + own


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["arm=rigl", "arm.during.fraction.share=1.5"], r"arm\.during\.fraction\.share=1\.5: must lie inside \(0, 1\)"),
        (["arm=gradual", "arm.during.end=40it"], "arm.during.end=40: must be before the last of the 40 steps"),
        (["arm=gradual", "arm.during.end=99ep"], "arm.during.end=1782: must be before the last of the 40 steps"),
        (["arm=set"], "arm.during.every=18: must not be after"),
        (
            ["arm=rigl", "arm.during.in_place_of_a_step=false"],
            "arm.during: growth: by_gradient needs in_place_of_a_step",
        ),
        (
            [
                "arm=rigl",
                "arm.during.scope._target_=lottery.pruning.scopes.everywhere",
                "~arm.during.scope.output",
                "+arm.during.scope.spare=[fc1.*]",
            ],
            r"arm\.during: scope: keeps 1\d,\d+ of the 1\d,\d+ weights of fc1\.weight where a share of 0\.\d+ is due",
        ),
        (  # the share is due in total, and not of each layer, which begin with those of a random graph
            [
                "arm=rigl",
                "scope=erdos_renyi",
                "schedule.keep=0.3",
                "arm.during.scope._target_=lottery.pruning.scopes.layerwise",
                "~arm.during.scope.output",
            ],
            r"arm\.during: scope: keeps [\d,]+ of the [\d,]+ weights of fc1\.weight where a share of 0\.\d+ is due; "
            r"it must prune the same share of what lives in each layer",
        ),
        (["arm=rigl", "structure=rows"], "structure: goes without dropping and growing single weights"),
        (["arm=set", "arm.during.every=10it", "hardware.devices=2"], "hardware.devices=2: goes without arm.during"),
        (["arm=rigl", "numerics.precision=16-mixed"], "numerics.precision=16-mixed: its loss scaling goes without"),
        (["arm=at_init", "arm.prune_at=40it"], "arm.prune_at=40it: must be a step from 0 to 39"),
        (["arm=at_init", "arm.prune_at=-5"], "arm.prune_at=-5: must be a step from 0 to 39"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_before_training(
    overrides: list[str], said: str, short: Callable[..., Cell]
) -> None:
    steps = ["budget.steps=20", "budget.evaluate=20"] if overrides == ["arm=set"] else []
    every = ["arm.during.every=10it"] if overrides[0] in ("arm=rigl", "arm=gradual") else []
    with pytest.raises(Refused, match=said):
        check(short(*overrides, *every, *steps))


@pytest.mark.parametrize(
    ("arm", "wrong", "said"),
    [
        ("gradual", {"initial": 0.05}, r"initial=0\.05: must be 0\.4 or more, the highest density of a round"),
        ("gradual", {"curve": lambda passed: math.nan if passed > 0.5 else passed}, r"curve=nan at step 20: must lie"),
        ("gradual", {"curve": lambda passed: 2 * passed}, r"curve=1\.33333 at step 20: must lie in \[0, 1\]"),
        ("gradual", {"curve": lambda passed: passed - 0.1}, r"curve=-0\.1 at step 0: must lie in \[0, 1\]"),
        ("gradual", {"curve": lambda passed: 0.9 * passed}, r"curve=0\.9 at step 30: must be 1 there, at the last"),
        ("gradual", {"scope": partial(layerwise, floor=99999)}, r"scope\.floor=99999: 3 layers keep 50200 weights at"),
        ("set", {"fraction": lambda step, end: step / 15}, r"fraction=1\.33333 at step 20: must lie in \[0, 1\]"),
        ("rigl", {"fraction": lambda step, end: math.nan}, r"fraction=nan at step 10: must lie in \[0, 1\]"),
    ],
)
def test_what_goes_wrong_at_a_later_change_is_refused_before_training(
    arm: str, wrong: dict[str, Any], said: str, short: Callable[..., Cell]
) -> None:
    cell = short(f"arm={arm}", "arm.during.every=10it", "schedule.keep=0.4", "schedule.rounds=2", "scope=everywhere")
    check(cell)
    rule: Any = cell.arm.during
    with pytest.raises(Refused, match=rf"^arm\.during\.{said}"):
        check(replace(cell, arm=replace(cell.arm, during=replace(rule, **wrong))))


def test_the_highest_density_of_a_round_may_be_the_first(short: Callable[..., Cell]) -> None:
    check(short("arm=gradual", "arm.during.every=10it", "arm.during.initial=0.4", "schedule.keep=0.4"))


@pytest.mark.parametrize(
    ("descent", "said"),
    [
        (lambda density: geometric(3, 0.5), r": its last density is 0\.125; it must be 0\.4, that of the round"),
        (lambda density: (), r": its last density is 1; it must be 0\.4, that of the round"),
        (lambda density: [Target(density / 2, 0.5), Target(density, 1.0)], r": round 2 has density=0\.4, more"),
        (partial(linear, rounds=0), r"\.rounds=0: must be at least 1"),
    ],
)
def test_a_descent_ends_at_the_density_of_the_round(descent: Any, said: str, short: Callable[..., Cell]) -> None:
    cell = short("arm=at_init", "schedule.rounds=1", "schedule.keep=0.4", "scope=everywhere")
    check(replace(cell, arm=replace(cell.arm, descent=partial(linear, rounds=3))))
    with pytest.raises(Refused, match=rf"^arm\.descent{said}"):
        check(replace(cell, arm=replace(cell.arm, descent=descent)))


def test_gradual_pruning_takes_an_arm_that_begins_dense(short: Callable[..., Cell]) -> None:
    with pytest.raises(Refused, match=r"arm: during: it begins with the dense network, which takes prune_at=0"):
        short("arm=gradual", "arm.prune_at=null")


# pruning at initialisation


def test_masks_at_initialisation_are_of_the_untrained_network_and_need_no_training(short: Callable[..., Cell]) -> None:
    cell = short("arm=at_init", "scope=everywhere", "schedule.rounds=2", "schedule.keep=0.5")

    def never(current: Any) -> Any:
        raise AssertionError("trains")

    rounds = list(zip(range(3), play(cell.study.recipe, cell.study.pruning, cell.arm, 0, never), strict=False))
    start: State = rounds[0][1].ticket.state
    for index, current in rounds[1:]:
        total = sum(mask.numel() for mask in current.ticket.masks.values())
        values = torch.cat([start[name].abs().flatten() for name in current.ticket.masks])
        threshold = values.sort(descending=True).values[round(0.5**index * total) - 1]
        for name, mask in current.ticket.masks.items():
            assert torch.equal(mask, start[name].abs() >= threshold)
            assert torch.equal(current.ticket.state[name], start[name] * mask)
        assert current.before.dense == 0


def test_a_descent_scores_the_masked_network_at_each_of_its_densities(short: Callable[..., Cell]) -> None:
    seen: list[float] = []

    def watching(evidence: Evidence) -> dict[str, Tensor]:
        weights = evidence.weights
        seen.append(density({name: weight != 0 for name, weight in weights.items()}))
        assert all(not weight.detach()[~evidence.masks[name]].any() for name, weight in weights.items())
        return {name: weight.detach().abs() for name, weight in weights.items()}

    cell = short(
        "arm=at_init", "scope=everywhere", "schedule.rounds=1", "schedule.keep=0.0625",
        "arm.descent={_target_: lottery.pruning.schedules.exponential, rounds: 4}",
    )  # fmt: skip
    pruning = replace(cell.study.pruning, criterion=watching)
    _, current = (pair[0] for pair in zip(play(cell.study.recipe, pruning, cell.arm, 0, None), range(2), strict=False))
    assert seen == pytest.approx([1, 0.5, 0.25, 0.125], abs=1e-4)
    assert density(current.ticket.masks) == pytest.approx(0.0625, abs=1e-4)


def test_pruning_early_in_training_takes_the_network_of_that_step(short: Callable[..., Cell], tmp_path: Path) -> None:
    cell = short("arm=at_init", "arm.prune_at=10it", "arm.rewind=10it", "scope=everywhere", "schedule.rounds=1")
    dense_one, current = play(cell.study.recipe, cell.study.pruning, cell.arm, 0, TrainOnce(cell, Store(tmp_path)))
    then = dense_one.cut(10).trained.state
    assert all(torch.equal(current.ticket.state[n], then[n] * mask) for n, mask in current.ticket.masks.items())
    assert current.before.dense == 10 * cell.study.recipe.flops({}).dense


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["arm=imp", "+arm.prune_at=0"], "arm.prune_at=0: is for arms that prune the dense network themselves"),
        (["arm=imp", "+arm.descent={_target_: lottery.pruning.schedules.linear, rounds: 3}"], "arm: descent: is for"),
    ],
)
def test_pruning_at_a_step_is_for_arms_that_prune_the_dense_network(
    overrides: list[str], said: str, short: Callable[..., Cell]
) -> None:
    with pytest.raises(Refused, match=said):
        short(*overrides)


# layers that die


def test_a_layer_that_dies_is_named_in_ledger_and_progress(
    short: Callable[..., Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = short("arm=at_init", "scope=everywhere")
    cell = replace(cell, study=replace(cell.study, pruning=replace(cell.study.pruning, schedule=one_shot(1e-4))))
    folder = tmp_path / "cell"
    record_cell(cell, folder, Store(tmp_path / "store"), [Progress(cell, folder)])
    dense_line, line = Ledger(folder / NAME).lines()
    assert "collapsed" not in dense_line
    dead = [name for name, share in line["layer_densities"].items() if not share]
    assert dead
    assert line["collapsed"] == f"{', '.join(dead)}: no weight is left"
    assert f"collapsed: {dead[0]}" in capsys.readouterr().out


def test_a_network_without_a_path_is_named_though_every_layer_lives(short: Callable[..., Cell], tmp_path: Path) -> None:
    def one_way(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: object) -> dict[str, Tensor]:
        """A weight to the first unit of a layer, and one from the last of it."""
        found = {name: torch.zeros_like(mask) for name, mask in masks.items()}
        found["fc1.weight"][0, 0] = found["fc2.weight"][0, 0] = found["output.weight"][0, -1] = True
        return found

    cell = short("schedule.rounds=1")
    cell = replace(cell, study=replace(cell.study, pruning=replace(cell.study.pruning, scope=one_way)))
    lines = shown(cell, tmp_path / "cell")
    assert [line.get("collapsed") for line in lines] == [None, "no path of kept weights leads from input to output"]
    assert cell.study.recipe.paths({}) is not None


def test_what_scoring_costs_is_counted(short: Callable[..., Cell]) -> None:
    def cost(*more: str) -> float:
        cell = short("scope=everywhere", *more)
        return scoring_flops(cell.study.recipe, cell.study.pruning, 0)

    weights = [64 * 300, 300 * 100, 100 * 10]
    batch = 2 * 60 * sum(weights)  # a forward pass of a batch
    assert cost("criterion=magnitude") == 0
    # backward: gradients of all weights, and of the inputs of all layers but the first
    assert cost("criterion=snip") == 2 * batch + 2 * 60 * sum(weights[1:])
    assert cost("criterion=taylor", "criterion.batches=3") == 3 * cost("criterion=snip")


# what a review found


def test_gradual_pruning_takes_criterion_scope_and_structure_of_the_study(
    short: Callable[..., Cell], tmp_path: Path
) -> None:
    common = ("arm=gradual", "arm.during.every=10it", "schedule.rounds=1", "schedule.keep=0.5")
    phases = {}
    for name, more in {
        "magnitude": ["scope=everywhere"],
        "random": ["scope=everywhere", "criterion=random"],
        "rows": ["structure=rows"],
    }.items():
        line = shown(short(*common, *more), tmp_path / name)[1]
        phases[name] = line["phase"]
        entry = Store(tmp_path / "store").find(line["phase"])
        assert entry is not None
        if name == "rows":
            rows = [mask.float().mean(1) for mask in entry.masks.values()]
            assert all(((row == 0) | (row == 1)).all() for row in rows)
    assert len(set(phases.values())) == 3


def test_the_way_to_the_rewinding_point_is_counted(short: Callable[..., Cell], tmp_path: Path) -> None:
    cell = short("arm=at_init", "arm.rewind=10it", "schedule.rounds=1")
    line = shown(cell, tmp_path / "cell")[1]
    assert line["train_steps"] == 30
    assert line["total_flops"] == line["train_flops"] + 10 * cell.study.recipe.flops({}).dense


LATER = replace(RULES["gradual"], begin=3)  # it has diverged two steps before a change


@pytest.mark.parametrize("rule", [RULES["rigl"], RULES["gradual"], LATER])
def test_a_training_that_diverges_is_named_so_before_masks_change(rule: Rule) -> None:
    wild = recipe(optimizer=partial(SGD, lr=1e18))
    with pytest.raises(Diverged, match=r"the loss became (nan|inf|-inf) at step \d+, learning rate"):
        fit(wild, working(rule))


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_gradients_that_are_no_numbers_choose_no_masks(slope: float) -> None:
    """The loss is finite, and its derivative is not, as that of a root is at zero."""

    class Rooted(Classifier):
        steps = 0

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().loss(outputs, targets)
            if self.training:
                self.steps += 1
                if self.steps == 3:  # of step 2, the first at which masks change
                    weight = next(self.net.parameters())
                    weight.register_hook(lambda gradient: torch.full_like(gradient, slope))
            return loss

    with pytest.raises(Diverged, match=r"^the gradients became NaN or infinite at step 2$"):
        fit(recipe(module=partial(Rooted, classes=3)), working(RULES["rigl"]))


def test_each_step_of_a_descent_draws_anew(short: Callable[..., Cell]) -> None:
    drawn: list[Tensor] = []

    def watching(evidence: Evidence) -> dict[str, Tensor]:
        scores = {name: torch.rand(mask.shape, generator=evidence.rng) for name, mask in evidence.masks.items()}
        drawn.append(scores["fc1.weight"])
        return scores

    cell = short(
        "arm=at_init", "scope=everywhere", "schedule.rounds=1",
        "arm.descent={_target_: lottery.pruning.schedules.linear, rounds: 3}",
    )  # fmt: skip
    pruning = replace(cell.study.pruning, criterion=watching)
    list(zip(play(cell.study.recipe, pruning, cell.arm, 0, None), range(2), strict=False))
    assert len(drawn) == 3
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_what_a_change_drops_or_grows_has_no_momentum_after_it() -> None:
    same, work = recipe(optimizer=partial(SGD, lr=0.05, momentum=0.9)), working(RULES["rigl"])
    seen = []

    class Watched(Changing):
        def _change(self, step: int, gradients: Mapping[str, Tensor]) -> None:
            before = self.holding.masks
            super()._change(step, gradients)
            for name, mask in self.holding.masks.items():
                momentum = self.optimizers[0].state[self.holding.weights[name]]["momentum_buffer"]
                seen.append((bool(momentum[mask != before[name]].any()), bool(momentum[mask & before[name]].any())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Changing", Watched)
        fit(same, work)
    assert len(seen) == 5 * 3
    assert not any(changed for changed, _ in seen)
    assert all(kept for _, kept in seen)


def test_a_round_whose_masks_changed_gives_no_ticket(short: Callable[..., Cell], tmp_path: Path) -> None:
    words = [*TINY, "hardware=cpu", f"out={tmp_path}", "arm=set", "arm.during.every=10it", "schedule.rounds=1"]
    [job] = cell_configs(words)
    run_cell(job)
    with pytest.raises(Refused, match="masks of round 1 changed while it trained"):
        exported(job.folder, 1, tmp_path / "t.safetensors", seed_only=False)
    exported(job.folder, 0, tmp_path / "t.safetensors", seed_only=False).write()
