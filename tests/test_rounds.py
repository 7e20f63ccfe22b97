"""Rounds: the tickets of every arm, against the paper's description in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lottery.algorithm import play
from lottery.data.examples import Data, Examples
from lottery.foundations.digests import digest
from lottery.foundations.seeds import Streams, derive, generator
from lottery.pruning import masks as _masks
from lottery.pruning.contracts import Criterion, Evidence, Scores, Target, choose
from lottery.pruning.criteria import magnitude, random
from lottery.pruning.schedules import geometric
from lottery.pruning.scopes import everywhere
from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.rounds.rewinding import Origin, Rewinding, to_constant, to_fresh, to_fresh_same_sign, to_scaled
from lottery.rounds.round import Round, initial
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Classifier
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Budget, Recipe
from lottery.training.states import State, state_of

STEPS, ROUNDS = 12, 3
PRUNING = Pruning(magnitude, everywhere, geometric(ROUNDS, keep=0.5))
WEIGHTS = ("0.weight", "3.weight", "5.weight")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def recipe() -> Recipe:
    inputs = torch.randn(80, 6, generator=torch.Generator().manual_seed(1))
    whole = Examples(inputs, inputs[:, :3].argmax(1))
    data = Data(whole[:60], whole[60:70], whole[70:], batch_size=8, shape=(6,), classes=3)
    return ModuleRecipe(
        data, network, Budget(STEPS, STEPS, STEPS), module=partial(Classifier, classes=3),
        optimizer=partial(SGD, lr=0.1, momentum=0.9),
        hardware=Hardware(accelerator="cpu"),
    )  # fmt: skip


@dataclass
class Trainer:
    """Trains every phase once, and counts."""

    seed: int
    recipe: Recipe = field(default_factory=recipe)
    known: dict[tuple[str, str, int, int], Trained] = field(default_factory=dict)

    def __call__(self, current: Round) -> Trained:
        ticket, index, first, last, budget = (
            current.ticket,
            current.index,
            current.first,
            current.last,
            current.budget,
        )
        key = digest(ticket.state), digest(ticket.masks), first, last
        if key not in self.known:
            order, noise = derive(self.seed, "order", index), derive(self.seed, "noise", index)
            phase = Phase(ticket.state, ticket.masks, first, last, order, noise, budget=budget)
            self.known[key] = fit(self.recipe, phase, evaluate=False)
        return self.known[key]


def imp(rewind: int = 0) -> Arm:
    return Arm("imp", rewind=rewind, first=rewind)


def reinit(rewind: int = 0) -> Arm:
    return Arm("random_reinit", weights=to_fresh, rewind=rewind, first=0, parent=imp(rewind))


def shuffled(rewind: int = 0) -> Arm:
    return Arm("random_mask", masks=_masks.shuffled, rewind=rewind, first=rewind, parent=imp(rewind))


def rounds(arm: Arm, seed: int = 0, train: Trainer | None = None, pruning: Pruning = PRUNING) -> list[Round]:
    train = train or Trainer(seed)
    return list(play(train.recipe, pruning, arm, seed, train))


def initialised(seed: int) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        return state_of(network())


def dense_at(step: int, seed: int = 0) -> State:
    """Weights and buffers of the dense network after so many steps, by a plain loop."""
    net, same = network(), recipe()
    net.load_state_dict(initialised(seed))
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    for inputs, targets in same.data.batches(derive(seed, "order", 0), 0, step):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return state_of(net)


def assert_equal(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


every_arm = pytest.mark.parametrize("arm", [imp, reinit, shuffled])
every_rewind = pytest.mark.parametrize("rewind", [0, 5])


@every_rewind
@every_arm
def test_round_zero_is_the_same_dense_ticket_in_every_arm(arm: Callable[[int], Arm], rewind: int) -> None:
    first, *_ = rounds(arm(rewind))
    assert (first.index, first.first, first.last) == (0, 0, STEPS)
    assert_equal(first.ticket.state, initialised(0))
    assert list(first.ticket.masks) == list(WEIGHTS)
    assert all(mask.all() for mask in first.ticket.masks.values())


@every_rewind
def test_imp_begins_with_start_weights_times_masks(rewind: int) -> None:
    start = dense_at(rewind)
    assert int(start["1.num_batches_tracked"]) == rewind
    played = rounds(imp(rewind))
    assert len(played) == ROUNDS + 1
    for index, current in enumerate(played[1:], start=1):
        masks = current.ticket.masks
        expected = {name: torch.where(masks[name], t, 0.0) if name in masks else t for name, t in start.items()}
        assert_equal(current.ticket.state, expected)  # buffers go back too
        assert (current.index, current.first, current.last) == (index, rewind, STEPS)


@every_rewind
def test_imp_prunes_the_smallest_weights_of_the_round_before(rewind: int) -> None:
    for before, after in pairwise(rounds(imp(rewind))):
        alive = torch.cat([before.ticket.masks[name].flatten() for name in WEIGHTS])
        kept = torch.cat([after.ticket.masks[name].flatten() for name in WEIGHTS])
        size = torch.cat([before.trained.state[name].abs().flatten() for name in WEIGHTS])
        assert size[kept].min() > size[alive & ~kept].max()


@pytest.mark.parametrize("criterion", [magnitude, random])  # random scores do not spare the pruned of themselves
def test_masks_only_shrink_and_densities_follow_the_schedule(criterion: Criterion) -> None:
    played = rounds(imp(), pruning=replace(PRUNING, criterion=criterion))
    for before, after in pairwise(played):
        assert all((before.ticket.masks[name] | ~after.ticket.masks[name]).all() for name in WEIGHTS)
    total = 6 * 12 + 12 * 10 + 10 * 3
    counts = [_masks.kept(current.ticket.masks) for current in played]
    assert counts[0] == total
    assert all(abs(count - total * 0.5**index) <= 0.5 for index, count in enumerate(counts))


@every_rewind
def test_random_reinit_has_imp_s_masks_over_fresh_values(rewind: int) -> None:
    train = Trainer(0)
    tickets = [r.ticket for r in rounds(reinit(rewind), train=train)]
    for ticket, parent in zip(tickets, rounds(imp(rewind), train=train), strict=True):
        assert digest(ticket.masks) == digest(parent.ticket.masks)
    other = [r.ticket for r in rounds(reinit(rewind), seed=1)]
    drawn = [initialised(0), dense_at(rewind), *(t.state for t in tickets[1:]), *(t.state for t in other[1:])]
    for name in WEIGHTS:
        for index, ticket in enumerate(tickets[1:], start=1):
            mask = ticket.masks[name]
            assert not ticket.state[name][~mask].any()
            others = [state for state in drawn if state is not ticket.state]
            assert len(others) == len(drawn) - 1
            for state in others:
                both = mask & (state[name] != 0)
                assert (ticket.state[name] != state[name])[both].all(), index
    assert all(int(ticket.state["1.num_batches_tracked"]) == 0 for ticket in tickets)
    bound = 6**-0.5  # PyTorch's own initialisation of the first layer
    values = torch.cat([ticket.state["0.weight"][ticket.masks["0.weight"]] for ticket in tickets[1:]])
    assert 0.8 * bound < values.abs().max() <= bound


def test_random_reinit_is_the_same_draw_at_every_start() -> None:
    for one, other in zip(rounds(reinit()), rounds(reinit()), strict=True):
        assert_equal(one.ticket.state, other.ticket.state)


def test_random_reinit_trains_from_the_first_step_whatever_its_parent_rewinds_to() -> None:
    assert [(r.first, r.last) for r in rounds(reinit(5))] == [(0, STEPS)] * (ROUNDS + 1)


@every_rewind
def test_random_mask_keeps_as_many_in_each_layer_at_other_places(rewind: int) -> None:
    train, start = Trainer(0), dense_at(rewind)
    played, parents = rounds(shuffled(rewind), train=train), rounds(imp(rewind), train=train)
    for current, parent in zip(played[1:], parents[1:], strict=True):
        masks, found = current.ticket.masks, parent.ticket.masks
        assert {name: int(mask.sum()) for name, mask in masks.items()} == {n: int(m.sum()) for n, m in found.items()}
        for name in WEIGHTS:
            assert not torch.equal(masks[name], found[name])
        expected = {name: torch.where(masks[name], t, 0.0) if name in masks else t for name, t in start.items()}
        assert_equal(current.ticket.state, expected)
    # drawn anew in each round: not a part of the round before
    assert any((played[2].ticket.masks[name] & ~played[1].ticket.masks[name]).any() for name in WEIGHTS)


def test_seeds_differ_in_everything() -> None:
    for one, other in zip(rounds(imp(), seed=0), rounds(imp(), seed=1), strict=True):
        assert not any(torch.equal(one.ticket.state[name], other.ticket.state[name]) for name in WEIGHTS)


@pytest.mark.parametrize(
    ("arm", "phases"),
    [
        (imp(), 1 + ROUNDS),
        (imp(5), 1 + ROUNDS + 1),  # without a store that keeps it in passing, the way to step 5 is a phase of its own
        (reinit(), 1 + ROUNDS + (ROUNDS - 1)),  # its parent's last round finds no mask, so it is not trained
        (shuffled(), 1 + ROUNDS + (ROUNDS - 1)),
    ],
)
def test_trains_what_is_asked_for_and_nothing_else(arm: Arm, phases: int) -> None:
    train = Trainer(0)
    for current in play(train.recipe, PRUNING, arm, 0, train):
        _ = current.trained
    assert len(train.known) == phases


def test_a_study_without_rounds_is_one_dense_training() -> None:
    train = Trainer(0)
    assert [r.index for r in rounds(imp(), train=train, pruning=Pruning(magnitude, everywhere, ()))] == [0]
    assert train.known == {}


def test_criteria_are_shown_the_trained_network_and_its_start() -> None:
    shown: list[tuple[State, State, str, list[torch.Tensor], int]] = []

    def spy(evidence: Evidence) -> Scores:
        assert not evidence.net.training
        batches, again = ([inputs for inputs, _ in evidence.batches] for _ in range(2))
        assert len(batches) == 60 // 8
        assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))
        outputs = evidence.run((batches[0], None))
        assert torch.equal(outputs, evidence.net(batches[0]))
        likely, unlikely = ((batches[0], find(1)) for find in (outputs.argmax, outputs.argmin))
        assert evidence.loss(likely) < evidence.loss(unlikely)
        number = int(torch.randint(2**40, (1,), generator=evidence.rng))
        shown.append((state_of(evidence.net), dict(evidence.start), digest(evidence.masks), batches, number))
        return magnitude(evidence)

    played = rounds(imp(5), pruning=Pruning(spy, everywhere, geometric(ROUNDS, keep=0.5)))
    assert len(shown) == ROUNDS
    for (state, start, masks, _, _), before in zip(shown, played, strict=False):
        assert_equal(state, before.trained.state)
        assert_equal(start, dense_at(5))
        assert masks == digest(before.ticket.masks)
    assert len({number for *_, number in shown}) == ROUNDS
    assert not torch.equal(shown[0][3][0], shown[1][3][0])


def test_what_is_drawn_from_the_generators_of_a_process_is_independent_of_the_one_that_is_handed_over() -> None:
    drawn: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"score": [], "masks": []}

    def both(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(8, generator=rng), torch.rand(8)

    def criterion(evidence: Evidence) -> Scores:
        drawn["score"].append(both(evidence.rng))
        return magnitude(evidence)

    def as_found(masks: _masks.Masks, rng: torch.Generator) -> _masks.Masks:
        drawn["masks"].append(both(rng))
        return masks

    rounds(replace(imp(), masks=as_found), pruning=Pruning(criterion, everywhere, PRUNING.schedule))
    for index in range(1, ROUNDS + 1):
        for purpose in (("score", index), ("masks", "imp", index)):
            handed, ours = drawn[purpose[0]][index - 1]
            assert torch.equal(handed, torch.rand(8, generator=generator(derive(0, *purpose))))  # as it always was
            assert not set(handed.tolist()) & set(ours.tolist())
            assert torch.equal(ours, torch.rand(8, generator=generator(derive(derive(0, *purpose), "global"))))


def test_what_criterion_and_scope_do_in_place_reaches_no_round() -> None:
    def careless(evidence: Evidence) -> Scores:
        scores = magnitude(evidence)
        for tensor in (*evidence.start.values(), *evidence.masks.values()):
            tensor.zero_()
        return scores

    def wasteful(scores: Scores, masks: _masks.Masks, target: Target) -> _masks.Masks:
        chosen = everywhere(scores, masks, target)
        for mask in masks.values():
            mask.zero_()
        return chosen

    expected = rounds(imp())
    for one, other in zip(rounds(imp(), pruning=Pruning(careless, wasteful, PRUNING.schedule)), expected, strict=True):
        assert_equal(one.ticket.masks, other.ticket.masks)
        assert_equal(one.ticket.state, other.ticket.state)


def test_what_an_arm_does_in_place_reaches_no_other_round() -> None:
    def careless(origin: Origin) -> State:
        fresh = origin.fresh()
        for tensor in (*origin.start.values(), *origin.trained().values(), *origin.masks.values()):
            tensor.zero_()
        return fresh

    def wasteful(masks: _masks.Masks, rng: torch.Generator) -> _masks.Masks:
        found = {name: mask.clone() for name, mask in masks.items()}
        for mask in masks.values():
            mask.zero_()
        return found

    control = replace(imp(5), name="control", parent=imp(5))
    expected = rounds(replace(control, weights=to_fresh))
    for one, other in zip(rounds(replace(control, weights=careless, masks=wasteful)), expected, strict=True):
        assert_equal(one.ticket.masks, other.ticket.masks)
        assert_equal(one.ticket.state, other.ticket.state)
        assert_equal(one.trained.state, other.trained.state)


def test_a_scope_that_revives_in_place_is_refused() -> None:
    def reviving(scores: Scores, masks: _masks.Masks, target: Target) -> _masks.Masks:
        for mask in masks.values():
            mask.fill_(True)
        return masks

    mask = torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"^a pruned weight of fc\.weight comes back$"):
        choose(reviving, {"fc.weight": torch.ones(2)}, {"fc.weight": mask}, Target(0.5, 1.0))


class Tied(nn.Module):
    """Two layers with a shared weight: a state has it under both names, masks under the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.two(self.one(inputs).relu()).relu())


@pytest.mark.parametrize("weights", [to_fresh_same_sign, to_constant])
def test_a_shared_weight_is_rewound_under_all_its_names(weights: Rewinding) -> None:
    train = Trainer(0, replace(recipe(), network=Tied, optimizer=partial(SGD, lr=0.0)))
    start = rounds(imp(), train=train)[0].ticket.state
    for index, current in enumerate(rounds(Arm("mine", weights=weights), train=train)[1:], start=1):
        fresh = initial(train.recipe, Streams(0).reinit(index))
        expected = weights(Origin(start, dict, lambda fresh=fresh: fresh, current.ticket.masks))["one.weight"]
        expected = expected * current.ticket.masks["one.weight"]
        assert expected.any()
        assert not torch.equal(expected, start["one.weight"] * current.ticket.masks["one.weight"])
        assert torch.equal(current.ticket.state["one.weight"], expected)
        assert torch.equal(current.trained.state["one.weight"], expected)  # with learning rate 0
        assert torch.equal(current.trained.state["two.weight"], expected)


def test_the_ticket_of_a_shared_weight_is_digested_as_ever() -> None:
    """A shared weight keeps its pruned entries under its further names: digests of older phases depend on it."""
    train = Trainer(0, replace(recipe(), network=Tied))
    dense, first, *_ = rounds(imp(), train=train)
    assert torch.equal(first.ticket.state["two.weight"], dense.ticket.state["one.weight"])


def test_constant_of_a_single_weight_is_its_size() -> None:
    start = {"one.weight": torch.tensor([[-3.0]]), "two.weight": torch.tensor([[1.0, -5.0]])}
    found = to_constant(Origin(start, dict, dict, _masks.dense(start)))
    assert found["one.weight"].tolist() == [[-3.0]]
    assert found["two.weight"].tolist() == [[pytest.approx(18**0.5), pytest.approx(-(18**0.5))]]


def test_scaled_weights_are_those_of_the_start_over_the_root_of_each_layer_s_density() -> None:
    start = {
        "a": torch.tensor([3.0, -1.0, 2.0, 5.0]),
        "b": torch.tensor([4.0]),
        "c": torch.tensor([7.0]),
        "bias": torch.ones(1),
    }
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.tensor([True]), "c": torch.tensor([False])}
    found = to_scaled(Origin(start, dict, dict, masks))
    assert {name: values.tolist() for name, values in found.items()} == {
        "a": [6.0, -2.0, 4.0, 10.0], "b": [4.0], "c": [7.0], "bias": [1.0],
    }  # fmt: skip
    assert start["a"].tolist() == [3.0, -1.0, 2.0, 5.0]
