"""Criteria: SNIP against arithmetic and finite differences, and the contract of every criterion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from lottery.config.groups import CONF, options
from lottery.data.examples import Data, Examples
from lottery.pruning.contracts import Criterion, Evidence, Scores, score
from lottery.pruning.criteria import magnitude, random
from lottery.pruning.criteria.gradients import snip
from lottery.pruning.masks import prunable
from lottery.training.module_recipe import ScoringBatches
from tests.evidence import UNTRAINED, condition, evidence_of, trained


@pytest.fixture
def evidence() -> Evidence:
    return trained()


def test_magnitude_is_the_absolute_weight() -> None:
    net = nn.Linear(3, 1)
    net.weight.data = torch.tensor([[-2.0, 0.0, 1.5]])
    assert score(magnitude, evidence_of(net, []))["weight"].tolist() == [[2.0, 0.0, 1.5]]


def test_magnitude_scores_do_not_follow_later_training(evidence: Evidence) -> None:
    scores = magnitude(evidence)
    before = {name: values.clone() for name, values in scores.items()}
    for weight in evidence.net.parameters():
        weight.data.add_(1)
    assert all(torch.equal(scores[name], before[name]) for name in before)


def test_snip_of_a_linear_layer_by_hand() -> None:
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    # outputs (1 - 6, 3 + 12) = (-5, 15); errors (1, -1); gradient of the mean square = errors x inputs
    batch = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])
    scores = score(snip, evidence_of(net, [batch], functional.mse_loss))
    assert scores["weight"].tolist() == [[1.0, 6.0], [3.0, 12.0]]


def test_snip_takes_the_gradient_of_the_mean_over_its_batches() -> None:
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    first = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])  # gradient ((1, 3), (-1, -3))
    second = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 6.0]])  # outputs (2, 6), gradient ((-6, 0), (0, 0))
    scores = score(partial(snip, batches=2), evidence_of(net, [first, second], functional.mse_loss))
    assert scores["weight"].tolist() == [[2.5, 3.0], [1.5, 6.0]]


@pytest.mark.parametrize("batches", [1, 2])
def test_snip_is_the_first_order_change_of_the_loss(batches: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = [(torch.randn(5, 3, dtype=torch.float64), torch.randint(3, (5,))) for _ in range(2)]
    scores = score(partial(snip, batches=batches), evidence_of(net, data))

    def loss() -> Tensor:
        return sum(functional.cross_entropy(net(inputs), targets) for inputs, targets in data[:batches]) / batches

    for name, weight in prunable(net).items():
        expected = torch.zeros_like(weight)
        with torch.no_grad():
            for place in range(weight.numel()):
                entry, kept, step = weight.view(-1), weight.view(-1)[place].item(), 1e-6
                entry[place] = kept * (1 + step)
                above = loss()
                entry[place] = kept * (1 - step)
                expected.view(-1)[place] = ((above - loss()) / (2 * step)).abs()
                entry[place] = kept
        torch.testing.assert_close(scores[name], expected, rtol=1e-6, atol=1e-9)
        assert expected.max() > 1e-3


def test_snip_scores_a_pruned_weight_and_a_layer_out_of_use_zero(evidence: Evidence) -> None:
    evidence.net.add_module("auxiliary", nn.Linear(2, 2))
    forward = evidence.net[:-1]
    evidence.masks["auxiliary.weight"] = torch.ones(2, 2, dtype=torch.bool)
    apart = replace(evidence, start={})
    evidence.net.forward = forward.forward
    scores = score(snip, apart)
    assert scores["auxiliary.weight"].tolist() == [[0, 0], [0, 0]]
    assert not any(scores[name][~mask].any() for name, mask in evidence.masks.items())
    assert scores["0.weight"].any()


@pytest.mark.parametrize("batches", [1, 2])
def test_snip_scores_frozen_weights_like_others(evidence: Evidence, batches: int) -> None:
    expected = score(partial(snip, batches=batches), evidence)
    evidence.net[0].requires_grad_(False)
    found = score(partial(snip, batches=batches), evidence)
    assert all(torch.equal(values, expected[name]) for name, values in found.items())
    assert [weight.requires_grad for weight in evidence.net[0].parameters()] == [False, False]


@pytest.mark.parametrize("batches", [1, 2])
def test_snip_draws_the_batches_that_it_reads_and_no_more(evidence: Evidence, batches: int) -> None:
    score(partial(snip, batches=batches), evidence)
    assert evidence.batches.drawn == batches


def test_snip_refuses_to_read_nothing(evidence: Evidence) -> None:
    with pytest.raises(ValueError, match="batches=0: must be at least 1"):
        score(partial(snip, batches=0), evidence)


def test_random_depends_on_its_generator_alone() -> None:
    def draw(seed: int, elsewhere: int) -> Tensor:
        torch.manual_seed(elsewhere)
        net = nn.Linear(20, 10)
        return score(random, evidence_of(net, [], seed=seed))["weight"]

    assert torch.equal(draw(1, elsewhere=1), draw(1, elsewhere=2))
    assert not torch.equal(draw(1, elsewhere=1), draw(2, elsewhere=1))


def test_random_is_uniform_and_drawn_anew_for_each_layer_and_round() -> None:
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    evidence = evidence_of(net, [])
    first, second = score(random, evidence), score(random, evidence)
    assert not torch.equal(first["0.weight"], first["1.weight"])
    assert not torch.equal(first["0.weight"], second["0.weight"])
    counts = first["0.weight"].histc(10, 0, 1)
    assert int(counts.sum()) == 10_000
    assert counts.tolist() == pytest.approx([1000] * 10, abs=150)  # five standard deviations


@pytest.fixture(params=sorted(options("criterion")))
def criterion(request: pytest.FixtureRequest) -> Criterion:
    """Each shipped criterion, as its yaml configures it."""
    node = OmegaConf.load(CONF / "criterion" / f"{request.param}.yaml")
    return instantiate(node, **UNTRAINED.get(request.param, {}))


def test_every_criterion_scores_each_prunable_weight(criterion: Criterion, evidence: Evidence) -> None:
    scores = score(criterion, evidence)
    assert {n: s.shape for n, s in scores.items()} == {n: m.shape for n, m in evidence.masks.items()}
    assert all(not values.requires_grad and values.std() > 0 for values in scores.values())


def test_every_criterion_leaves_everything_as_it_is(criterion: Criterion, evidence: Evidence) -> None:
    before = condition(evidence)
    score(criterion, evidence)
    assert condition(evidence) == before


@pytest.mark.parametrize("calls", [0, 1])
def test_every_criterion_leaves_everything_as_it_is_after_an_error(
    criterion: Criterion, evidence: Evidence, calls: int
) -> None:
    evidence.net[0].requires_grad_(False)
    before, asked = condition(evidence), 0

    def failing(own: Callable) -> Callable:
        def fails(batch: object) -> Tensor:
            nonlocal asked
            found = own(batch)  # the network has run, with all hooks
            if (asked := asked + 1) > calls:
                raise ZeroDivisionError
            return found

        return fails

    broken = replace(evidence, objective=failing(evidence.objective), outputs=failing(evidence.outputs))
    with suppress(ZeroDivisionError):  # the error is to come out, if it was met
        criterion(broken)
        assert asked <= calls, "the error was swallowed"
    assert condition(evidence) == before


def test_every_criterion_scores_frozen_weights_like_others(criterion: Criterion, evidence: Evidence) -> None:
    def scores() -> Scores:
        evidence.rng.manual_seed(5)
        return score(criterion, evidence)

    expected = scores()
    evidence.net[0].requires_grad_(False)
    found = scores()
    assert all(torch.equal(values, expected[name]) for name, values in found.items())
    assert [weight.requires_grad for weight in evidence.net[0].parameters()] == [False, False]
    evidence.net.requires_grad_(False)
    assert all(torch.equal(values, expected[name]) for name, values in scores().items())


ELSEWHERE = {"random", "large_initial", "movement", "magnitude_increase"}
"""criteria whose scores of pruned weights say nothing: scopes choose among the others"""


def test_pruned_weights_score_zero(criterion: Criterion, evidence: Evidence) -> None:
    name = getattr(criterion, "func", criterion).__name__
    scores = score(criterion, evidence)
    zero = not any(scores[each][~mask].any() for each, mask in evidence.masks.items())
    assert zero == (name not in ELSEWHERE)


def test_every_criterion_draws_from_its_own_generator_only(criterion: Criterion, evidence: Evidence) -> None:
    def run(elsewhere: int) -> tuple[Scores, Tensor, Tensor]:
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        evidence.rng.manual_seed(3)
        return score(criterion, evidence), before, torch.get_rng_state()

    (one, before, after), (other, *_) = run(elsewhere=1), run(elsewhere=2)
    assert torch.equal(before, after)
    assert all(torch.equal(one[name], other[name]) for name in evidence.masks)


def wrong(change: Callable[[Scores], None]) -> Criterion:
    def mistaken(evidence: Evidence) -> Scores:
        scores = magnitude(evidence)
        change(scores)
        return scores

    return mistaken


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("0.weight"), r"scores and masks differ in 0\.weight"),
        (lambda s: s.update({"5.bias": torch.zeros(4)}), r"scores and masks differ in 5\.bias"),
        (
            lambda s: s.update({"5.weight": s["5.weight"].T}),
            r"scores of 5\.weight have shape \(48, 4\), its mask \(4, 48\)",
        ),
        (lambda s: s["5.weight"][2, 3].fill_(torch.nan), r"1 of 192 scores of 5\.weight are not finite"),
        (lambda s: s["0.weight"][2].fill_(torch.inf), r"9 of 27 scores of 0\.weight are not finite"),
        (lambda s: s["0.weight"][2].fill_(-torch.inf), r"9 of 27 scores of 0\.weight are not finite"),
        (lambda s: s.update({"0.weight": s["0.weight"].long()}), r"scores of 0\.weight are torch\.int64, not floats"),
        (lambda s: s.update({"0.weight": s["0.weight"] > 0}), r"scores of 0\.weight are torch\.bool, not floats"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda function: function, partial])
def test_a_criterion_that_breaks_its_contract_is_refused_by_name(
    evidence: Evidence, change: Callable[[Scores], None], match: str, wrap: Callable[[Criterion], Criterion]
) -> None:
    with pytest.raises(ValueError, match=f"^criterion mistaken: {match}$"):
        score(wrap(wrong(change)), evidence)


def test_scores_of_no_consequence_are_accepted(evidence: Evidence) -> None:
    scores = score(wrong(lambda s: s["0.weight"].fill_(-1e38)), evidence)
    assert scores["0.weight"].unique().numel() == 1


def test_scoring_batches_are_one_epoch_and_the_same_at_each_iteration() -> None:
    part = Examples(torch.arange(23.0)[:, None], torch.arange(23))
    data = Data(part, part, part, batch_size=5, shape=(1,))
    batches = ScoringBatches(data, order=11)
    seen = [[targets.tolist() for _, targets in batches] for _ in range(2)]
    partly = [targets.tolist() for _, targets in islice(batches, 2)]
    assert seen[0] == seen[1]
    assert partly == seen[0][:2]
    assert len(seen[0]) == 4
    assert len({label for batch in seen[0] for label in batch}) == 20
    assert seen[0] != [targets.tolist() for _, targets in ScoringBatches(data, order=12)]


def test_gradients_are_those_of_the_mean_loss() -> None:
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 2.0]])
    batches = [(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0]])), (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0]]))]
    evidence = evidence_of(net, batches, loss=functional.mse_loss)
    assert evidence.gradients()["weight"].tolist() == [[60.0, 80.0]]  # 2 (3 + 8 - 1) x
    assert evidence.gradients(2)["weight"].tolist() == [[31.0, 40.0]]
    assert net.weight.grad is None


def test_activations_are_those_of_each_call_of_a_layer() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    net[0].weight.data, net[2].weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    evidence = evidence_of(net, [])
    evidence = replace(evidence, outputs=lambda batch: (net(batch), net(2 * batch)))
    found = evidence.activations(torch.tensor([[3.0, 4.0]]))
    assert {name: [output.tolist() for output in calls] for name, calls in found.items()} == {
        "0.weight": [[[3.0, -4.0]], [[6.0, -8.0]]],
        "2.weight": [[[3.0]], [[6.0]]],
    }
    assert not net[0]._forward_hooks


def test_a_criterion_written_for_outputs_and_targets_is_told_what_to_write(evidence: Evidence) -> None:
    inputs, targets = next(iter(evidence.batches))
    with pytest.raises(TypeError, match=r"^evidence\.loss takes a batch: write evidence\.loss\(batch\)"):
        evidence.loss(evidence.net(inputs), targets)
