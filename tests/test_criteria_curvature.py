"""Criteria that read the curvature of the loss: by hand, against whole Hessians, and the XOR of Hassibi & Stork."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.config.check_pruning import Misfit, pruned
from lottery.pruning.contracts import Criterion, Evidence, Scores, Target, Unscorable, score
from lottery.pruning.criteria import curvature as curvatures
from lottery.pruning.criteria import grasp, magnitude, obd, obs
from lottery.pruning.masks import Masks, apply_, dense, prunable
from lottery.pruning.scopes import everywhere
from lottery.rounds.arms import Arm
from lottery.rounds.prune import Pruning
from lottery.rounds.study import Cell
from tests.evidence import condition, curvature, evidence_of, flat, linear, scores_of, smooth, trained


def four() -> Evidence:
    """The mean square error of inputs (2, 0) and (0, 4) for two outputs: the Hessian is diagonal, (2, 8) for each."""
    inputs, targets = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.zeros(2, 2)
    return evidence_of(linear([1.0, -2.0], [3.0, 0.5]), [(inputs, targets)], functional.mse_loss)


@pytest.mark.parametrize("probes", [1, 100, None])
def test_obd_of_four_weights_by_hand(probes: int | None) -> None:
    """An estimate of a diagonal Hessian is exact, since probes of +1 and -1 square to 1."""
    assert scores_of(partial(obd, probes=probes), four()) == {"weight": [[1, 16], [9, 1]]}


def test_obs_of_four_weights_by_hand() -> None:
    # (1 / h_ii) of a diagonal Hessian gives what OBD gives; with 2 more on the diagonal, (4, 10) for (2, 8)
    assert flat(score(partial(obs, damping=0), four())).tolist() == pytest.approx([1, 16, 9, 1])
    assert flat(score(partial(obs, damping=2), four())).tolist() == pytest.approx([2, 20, 18, 1.25])


def test_obs_lets_other_weights_make_up_for_a_removed_one() -> None:
    # (w1 + w2)^2 + w2^2: H = ((2, 2), (2, 4)), H^-1 = ((1, -1/2), (-1/2, 1/2)); scores w^2 / 2 and w^2
    batch = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 1)
    net = linear([3.0, 2.0])
    evidence = evidence_of(net, [batch], lambda outputs, _: outputs.square().sum())
    assert flat(score(partial(obs, damping=0), evidence)).tolist() == pytest.approx([4.5, 4])
    assert scores_of(partial(obd, probes=None), evidence) == {"weight": [[9, 8]]}


def test_pruned_weights_add_no_noise_to_the_estimate_of_others() -> None:
    """Of H = ((2, 2), (2, 4)) a probe (1, 1) would take 4 for h_11, and (1, -1) would take 0."""
    batch = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 1)
    evidence = evidence_of(linear([3.0, 0.0]), [batch], lambda outputs, _: outputs.square().sum())
    evidence.masks["weight"][0, 1] = False
    assert scores_of(partial(obd, probes=1), evidence) == {"weight": [[9, 0]]}


@pytest.mark.parametrize("batches", [1, 2])
def test_exact_scores_are_those_of_the_whole_hessian(batches: int) -> None:
    evidence = smooth(batches)
    evidence.masks["2.weight"][1] = False
    apply_(prunable(evidence.net), evidence.masks)
    whole = sum(curvature(evidence, batch) for batch in evidence.batches) / batches
    weights, alive = flat(evidence.weights).detach(), flat(evidence.masks)
    found = flat(score(partial(obd, probes=None, batches=batches), evidence))
    torch.testing.assert_close(found, whole.diagonal() * weights**2 / 2)
    damped = whole[alive][:, alive] + 2 * torch.eye(int(alive.sum()), dtype=torch.float64)
    expected = torch.zeros_like(weights)
    expected[alive] = weights[alive] ** 2 / (2 * torch.linalg.inv(damped).diagonal())
    torch.testing.assert_close(flat(score(partial(obs, damping=2, batches=batches), evidence)), expected)
    assert expected[alive].min() > 1e-3


@pytest.mark.parametrize("criterion", [obd, obs])
def test_weights_may_lie_in_any_order_in_memory(criterion: Criterion) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(8, 2)).double()
    batch = torch.randn(30, 2, 3, 3).double(), torch.arange(30) % 2
    exact = partial(criterion, damping=1.0) if criterion is obs else partial(criterion, probes=None)
    expected = exact(evidence_of(net, [batch], functional.cross_entropy))
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for name, scores in exact(evidence_of(other, [batch], functional.cross_entropy)).items():
        torch.testing.assert_close(scores, expected[name])


def test_obd_estimates_the_diagonal_without_bias() -> None:
    evidence = smooth(1)
    [batch] = evidence.batches
    whole, weights = curvature(evidence, batch), flat(evidence.weights).detach()
    exact = whole.diagonal() * weights**2 / 2
    # the estimate of h_ii varies by the sum of the squares of the rest of its row
    spread = ((whole**2).sum(1) - whole.diagonal() ** 2).sqrt() * weights**2 / 2
    few, many = (flat(score(partial(obd, probes=probes), evidence)) for probes in (1, 1000))
    assert (many - exact).abs().max() > 0
    assert ((many - exact).abs() <= 4 * spread / 1000**0.5).all()
    assert ((few - exact).abs() > 4 * spread / 1000**0.5).any()


def test_hessian_times_a_vector_is_that_of_the_mean_loss() -> None:
    evidence = smooth(2)
    vector = {name: torch.randn_like(weight) for name, weight in evidence.weights.items()}
    whole = [curvature(evidence, batch) for batch in evidence.batches]
    torch.testing.assert_close(flat(evidence.hessian_times(vector)), whole[0] @ flat(vector))
    torch.testing.assert_close(flat(evidence.hessian_times(vector, 2)), (whole[0] + whole[1]) @ flat(vector) / 2)


class Xor(nn.Module):
    """Two sigmoid units and a linear one; biases are weights of an input of 1, so that they can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 2, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        one = torch.ones(len(inputs), 1, dtype=inputs.dtype)
        return self.out(torch.cat([self.hidden(torch.cat([inputs, one], 1)).sigmoid(), one], 1))


def test_obs_removes_the_right_weight_of_xor_and_magnitude_the_wrong_one() -> None:
    """As Hassibi & Stork (1992) show. It is so for this solution, not for every one: training begins close to it."""
    inputs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    targets = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)
    net = Xor().double()
    net.hidden.weight.data = torch.tensor([[-2.9, 3.3, 2.4], [-2.4, 2.6, -1.9]], dtype=torch.float64)
    net.out.weight.data = torch.tensor([[-2.3, 2.2, 1.8]], dtype=torch.float64)
    weights = list(net.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.mse_loss(net(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    solution = torch.cat([weight.data.flatten() for weight in weights])

    def computes_xor(values: Tensor) -> bool:
        for weight, part in zip(weights, values.split([6, 3]), strict=True):
            weight.data = part.view_as(weight)
        correct = torch.equal(net(inputs) > 0.5, targets > 0.5)
        for weight, part in zip(weights, solution.split([6, 3]), strict=True):
            weight.data = part.view_as(weight)
        return correct

    def loss(values: Tensor) -> Tensor:
        parts = {"hidden.weight": values[:6].view(2, 3), "out.weight": values[6:].view(1, 3)}
        return functional.mse_loss(torch.func.functional_call(net, parts, (inputs,)), targets)

    whole = torch.autograd.functional.hessian(loss, solution)
    inverse = torch.linalg.inv(whole + 1e-4 * torch.eye(9, dtype=torch.float64))

    def updated(place: int) -> Tensor:
        """Without a weight, to which OBS adjusts all others."""
        moved = solution - solution[place] / inverse[place, place] * inverse[:, place]
        assert abs(moved[place]) < 1e-12
        return moved

    evidence = evidence_of(net, [(inputs, targets)], functional.mse_loss)
    scores = {criterion: flat(score(criterion, evidence)) for criterion in (obs, magnitude)}
    torch.testing.assert_close(scores[obs], solution**2 / (2 * inverse.diagonal()))
    right, wrong = (int(values.argmin()) for values in scores.values())
    assert computes_xor(solution)
    assert (right, wrong) == (5, 8)
    assert computes_xor(updated(right))
    assert not computes_xor(updated(wrong))  # not even with the help of all others
    assert not computes_xor(solution * (torch.arange(9) != wrong))


def test_obs_refuses_a_hessian_that_is_not_positive_definite() -> None:
    evidence = evidence_of(
        linear([3.0, 2.0]), [(torch.eye(2), None)], lambda out, _: out[0, 0] ** 2 - 2 * out[1, 0] ** 2
    )
    evidence.masks["weight"] = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(Unscorable, match=r"^damping=0.0001: must be above about 4, or the Hessian of the loss in the"):
        obs(evidence)
    assert flat(score(partial(obs, damping=5), evidence)).tolist() == pytest.approx([9 * 7 / 2, 4 * 1 / 2])


def test_the_check_before_training_leaves_to_training_what_only_training_can_mend() -> None:
    def picky(evidence: Evidence, error: type[Exception]) -> Scores:
        raise error("damping=1: must be above 2")

    def found(error: type[Exception]) -> Masks:
        pruning = Pruning(partial(picky, error=error), everywhere, (Target(0.5, 0.5),))
        study = SimpleNamespace(pruning=pruning, recipe=SimpleNamespace(aimed=lambda target: target))
        return pruned(cast(Cell, SimpleNamespace(study=study, arm=Arm("imp"))), evidence_of(nn.Linear(4, 5), []))

    assert int(found(Unscorable)["weight"].sum()) == 10
    with pytest.raises(Misfit, match=r"^criterion\.damping=1: must be above 2$"):
        found(ValueError)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = linear([1.0, 2.0]), linear([3.0])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


@pytest.mark.parametrize("loss", [lambda out, _: out.sum(), lambda out, _: out.square().sum()])
def test_layers_out_of_use_and_losses_without_curvature_score_zero(loss: Callable) -> None:
    evidence = evidence_of(Constant(), [(torch.tensor([[1.0, 1.0]]), None)], loss)
    curved = float(loss(torch.tensor(3.0), None)) == 9
    for criterion in (obd, partial(obd, probes=None)):
        found = scores_of(criterion, evidence)
        assert found["idle.weight"] == [[0]]
        if criterion is not obd:
            assert found["used.weight"] == ([[1, 4]] if curved else [[0, 0]])
    assert scores_of(partial(grasp, temperature=1), evidence)["idle.weight"] == [[0]]
    # only damping is left of the curvature of an idle weight
    assert score(partial(obs, damping=0.5), evidence)["idle.weight"].item() == pytest.approx(9 / 2 * 0.5)


def test_whole_hessians_are_of_so_many_unpruned_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = trained()
    alive = sum(int(mask.sum()) for mask in evidence.masks.values())
    monkeypatch.setattr(curvatures, "LARGEST", alive)
    assert score(partial(obs, damping=10), evidence)
    assert score(partial(obd, probes=None), evidence)
    monkeypatch.setattr(curvatures, "LARGEST", alive - 1)
    with pytest.raises(
        ValueError, match=f"^the whole Hessian of {alive} unpruned weights is too large, over {alive - 1}; prune"
    ):
        obs(evidence)
    with pytest.raises(
        ValueError, match=f"^probes=null: must be a number for {alive} unpruned weights; .* exact for {alive - 1} "
    ):
        obd(evidence, probes=None)
    assert score(obd, evidence)


class Once(torch.autograd.Function):
    """Squares, and has a derivative, but not a second one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


def bag(loss: Tensor) -> Tensor:
    return functional.embedding_bag(torch.tensor([[0, 1]]), loss.expand(2, 1).square(), mode="max").sum()


def ctc(loss: Tensor) -> Tensor:
    steps = (loss * torch.arange(8.0).view(4, 1, 2)).log_softmax(2)
    return functional.ctc_loss(steps, torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1]))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (Once.apply, "a function in it is marked once_differentiable$"),
        (bag, "the derivative for '_embedding_bag_backward' is not implemented"),
        (ctc, "derivative for aten::_ctc_loss_backward is not implemented"),
    ],
)
@pytest.mark.parametrize("criterion", [obd, partial(obd, probes=None), obs, partial(grasp, temperature=1)])
def test_a_loss_that_can_not_be_differentiated_twice(criterion: Criterion, last: Callable, said: str) -> None:
    evidence = trained()
    own, before = evidence.objective, condition(evidence)
    with pytest.raises(ValueError, match=f"^the loss can't be differentiated twice: {said}"):
        criterion(replace(evidence, objective=lambda batch: last(own(batch)).square()))
    assert condition(evidence) == before
    with pytest.raises(ValueError, match=r"^the loss has no gradient: "):
        criterion(replace(evidence, objective=lambda batch: own(batch).detach()))


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (partial(obd, batches=0), "batches=0: must be at least 1"),
        (partial(obd, batches=0, probes=None), "batches=0: must be at least 1"),
        (partial(obs, batches=0), "batches=0: must be at least 1"),
        (partial(obd, probes=0), "probes=0: must be at least 1, or null for the exact diagonal"),
        (partial(obs, damping=-0.1), "damping=-0.1: must be 0 or more"),
        (partial(obs, damping=float("nan")), "damping=nan: must be 0 or more"),
    ],
)
def test_settings_out_of_range(criterion: Criterion, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        criterion(trained())


class Attention(nn.Module):
    """Attention as PyTorch fuses it, which has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(1))


def test_attention_has_a_curvature_too() -> None:
    torch.manual_seed(0)
    net = Attention().eval()
    every = dense({n: w for n, w in net.named_parameters() if w.ndim > 1})
    batch = torch.randn(4, 5, 8), torch.tensor([0, 1, 2, 0])
    evidence = evidence_of(net, [batch], masks=every)
    vector = {name: torch.randn_like(weight) for name, weight in evidence.weights.items()}
    found = evidence.hessian_times(vector)
    weights, step, sides = evidence.weights, 1e-2, []
    for way in (step, -step):
        for name, weight in weights.items():
            weight.data += way * vector[name]
        sides.append(evidence.gradients())
        for name, weight in weights.items():
            weight.data -= way * vector[name]
    for name, product in found.items():
        expected = (sides[0][name] - sides[1][name]) / (2 * step)
        torch.testing.assert_close(product, expected, rtol=2e-2, atol=2e-3)
        assert product.abs().max() > 0.02
