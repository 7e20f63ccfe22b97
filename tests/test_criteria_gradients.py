"""Criteria that read gradients: by hand, and against finite differences."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.pruning.contracts import Criterion, Evidence, score
from lottery.pruning.criteria import fisher, grasp, snip, synflow, taylor, taylor_magnitude
from lottery.pruning.masks import apply_, prunable
from tests.evidence import (
    condition,
    convolutional,
    curvature,
    evidence_of,
    flat,
    linear,
    scores_of,
    slopes,
    smooth,
    trained,
)

# Of the net ((1, -2), (3, 4)) under the mean square error, as test_criteria.py has it: gradients ((1, 3), (-1, -3)) of
# the first batch and ((-6, 0), (0, 0)) of the second, so gradient x weight ((1, -6), (-3, -12)) and ((-6, 0), (0, 0)).
FIRST = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])
SECOND = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 6.0]])
BOTH = torch.cat([FIRST[0], SECOND[0]]), torch.cat([FIRST[1], SECOND[1]])


def four(*batches: tuple[Tensor, Tensor]) -> Evidence:
    return evidence_of(linear([1.0, -2.0], [3.0, 4.0]), batches, functional.mse_loss)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (partial(taylor, batches=1), [[1, 36], [9, 144]]),
        (partial(taylor, batches=2), [[18.5, 18], [4.5, 72]]),
        (partial(taylor_magnitude, batches=1), [[1, 6], [3, 12]]),
        (partial(taylor_magnitude, batches=2), [[3.5, 3], [1.5, 6]]),
        (partial(snip, batches=2), [[2.5, 3], [1.5, 6]]),  # in which the first weight's changes cancel out
        (taylor, [[18.5, 18], [4.5, 72]]),  # more batches than there are
        (partial(fisher, examples=1), [[1, 36], [9, 144]]),
        (fisher, [[18.5, 18], [4.5, 72]]),
    ],
)
def test_scores_of_four_weights_by_hand(criterion: Criterion, expected: list) -> None:
    assert scores_of(criterion, four(FIRST, SECOND)) == {"weight": expected}


def test_fisher_squares_the_gradient_of_each_example_and_not_of_the_batch() -> None:
    assert scores_of(fisher, four(BOTH)) == {"weight": [[18.5, 18], [4.5, 72]]}
    assert scores_of(partial(fisher, examples=1), four(BOTH)) == {"weight": [[1, 36], [9, 144]]}
    assert scores_of(partial(fisher, examples=4), four(BOTH, FIRST, BOTH)) == {"weight": [[9.75, 27], [6.75, 108]]}


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "arranged",
    [
        lambda x, y: {"x": x, "more": [y, None, 3.0]},
        lambda x, y: Pair((x, "name"), y),
        lambda x, y: (y, {"deep": {"x": x}}),
    ],
)
def test_fisher_splits_batches_of_any_structure(arranged: Callable[..., Any]) -> None:
    evidence, seen = four(BOTH), []

    def objective(batch: Any) -> Tensor:
        if isinstance(batch, dict):
            x, y, rest = batch["x"], batch["more"][0], batch["more"][1:]
        else:
            (x, y), rest = (batch[0][0], batch[1]) if isinstance(batch, Pair) else (batch[1]["deep"]["x"], batch[0]), ()
        seen.append((x.shape, y.shape, rest))
        return functional.mse_loss(evidence.net(x), y)

    found = replace(evidence, batches=[arranged(*BOTH)], objective=objective)
    assert scores_of(fisher, found) == {"weight": [[18.5, 18], [4.5, 72]]}
    assert {each[:2] for each in seen} == {((1, 2), (1, 2))}
    assert all(list(rest) in ([], [None, 3.0]) for *_, rest in seen)


@pytest.mark.parametrize(
    "batch", [(torch.zeros(3, 2), torch.zeros(2)), (torch.zeros(3, 2), torch.tensor(1.0)), torch.tensor(1.0), ["a"]]
)
def test_fisher_refuses_a_batch_that_has_no_examples(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"^a batch can't be split into its examples: it must have tensors, whose fir"):
        fisher(replace(four(), batches=[batch]))


def loss_of(evidence: Evidence, batch: Any) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        with torch.no_grad():
            return functional.cross_entropy(evidence.net(batch[0]), batch[1])

    return loss


@pytest.mark.parametrize(
    ("criterion", "combined"),
    [
        (partial(snip, batches=2), lambda changes: changes.mean(0).abs()),
        (partial(taylor, batches=2), lambda changes: changes.square().mean(0)),
        (partial(taylor_magnitude, batches=2), lambda changes: changes.abs().mean(0)),
    ],
)
def test_scores_are_changes_of_the_loss_to_first_order(criterion: Criterion, combined: Callable) -> None:
    evidence = smooth()
    changes = [slopes(evidence, loss_of(evidence, batch)) for batch in evidence.batches]
    for name, values in score(criterion, evidence).items():
        expected = combined(torch.stack([each[name] for each in changes]))
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-9)
        assert expected.max() > 1e-3


def test_fisher_is_the_mean_squared_change_of_each_examples_loss() -> None:
    evidence = smooth()
    singles = [(x[None], y[None]) for inputs, targets in evidence.batches for x, y in zip(inputs, targets, strict=True)]
    changes = [slopes(evidence, loss_of(evidence, single)) for single in singles[:7]]
    for name, values in score(partial(fisher, examples=7), evidence).items():
        expected = torch.stack([each[name] for each in changes]).square().mean(0)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-9)
        assert expected.max() > 1e-3


def test_grasp_by_hand() -> None:
    # (w1 - 1)^2 for the input (1, 0): gradient (2 w1 - 2, 0) = (4, 0), Hessian ((2, 0), (0, 0))
    evidence = evidence_of(
        linear([3.0, 5.0]), [(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]]))], functional.mse_loss
    )
    assert scores_of(partial(grasp, temperature=1), evidence) == {"weight": [[24, 0]]}
    # (w1 / 2 - 1)^2: gradient w1 / 2 - 1 = 0.5, Hessian 1 / 2
    assert scores_of(partial(grasp, temperature=2), evidence) == {"weight": [[0.75, 0]]}


@pytest.mark.parametrize("temperature", [1, 4])
def test_grasp_says_how_much_gradient_flow_is_lost_with_a_weight(temperature: float) -> None:
    """Removing a weight is to scale it by 1 - e; the flow of the unpruned weights falls by twice the score times e."""
    evidence = smooth()
    evidence.masks["0.weight"][0, 1] = False
    apply_(prunable(evidence.net), evidence.masks)
    weights, [one, other] = list(evidence.weights.values()), list(evidence.batches)

    def flow() -> Tensor:
        losses = [functional.cross_entropy(evidence.net(x) / temperature, y) for x, y in (one, other)]
        gradients = torch.autograd.grad(sum(losses) / 2, weights)
        return sum((g[m] ** 2).sum() for g, m in zip(gradients, evidence.masks.values(), strict=True))

    found = score(partial(grasp, batches=2, temperature=temperature), evidence)
    expected = slopes(evidence, flow, step=1e-5)
    for name, values in found.items():
        torch.testing.assert_close(2 * values, expected[name], rtol=1e-6, atol=1e-9)
    everything = flat(found)
    assert everything.min() < -1e-4
    assert everything.max() > 1e-4
    before = flow()
    for place, rises in ((int(everything.argmin()), True), (int(everything.argmax()), False)):
        removed = torch.ones_like(everything)
        removed[place] -= 0.01
        for weight, part in zip(weights, removed.split([w.numel() for w in weights]), strict=True):
            weight.data *= part.view_as(weight)
        assert bool(flow() > before) == rises  # the authors remove the highest of -w Hg, as this does
        for weight, part in zip(weights, removed.split([w.numel() for w in weights]), strict=True):
            weight.data /= part.view_as(weight)


def test_grasp_is_weight_times_the_whole_hessian_times_the_gradient() -> None:
    evidence = smooth(1)
    [batch] = evidence.batches
    product = curvature(evidence, batch) @ flat(evidence.gradients())
    found = flat(score(partial(grasp, temperature=1), evidence))
    torch.testing.assert_close(found, product * flat(evidence.weights))


class Dressed(nn.Module):
    """Gives its outputs in a dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(inputs)}


def test_grasp_refuses_outputs_that_it_can_not_divide() -> None:
    evidence = smooth()
    past = replace(evidence, net=Dressed(evidence.net), masks={f"net.{n}": m for n, m in evidence.masks.items()})
    with pytest.raises(ValueError, match=r"^temperature=200: .*, but the loss is computed without calling the network"):
        grasp(past)
    inside = replace(past, objective=lambda b: functional.cross_entropy(past.net(b[0])["logits"], b[1]))
    with pytest.raises(ValueError, match=r"^temperature=200: .*, but they are a dict, not one tensor; temperature=1 w"):
        grasp(inside)
    expected = flat(score(partial(grasp, temperature=1), evidence))
    assert all(torch.equal(flat(score(partial(grasp, temperature=1), each)), expected) for each in (past, inside))


def test_synflow_of_a_linear_chain_is_the_sum_of_products_along_its_paths() -> None:
    net = nn.Sequential(linear([1.0, -2.0], [3.0, -4.0]), linear([-5.0, 6.0]))
    inputs = torch.tensor([[-7.0, 0.0], [8.0, 9.0]])  # not looked at
    # paths through (unit, input): 5 x 1, 5 x 2, 6 x 3, 6 x 4; a weight of the second layer has two of them
    found = scores_of(synflow, evidence_of(net, [(inputs, torch.zeros(2, dtype=torch.long))]))
    assert found == {"0.weight": [[5, 10], [18, 24]], "1.weight": [[15, 42]]}


def test_synflow_is_conserved_from_layer_to_layer() -> None:
    """Tanaka et al. (2020): without biases, scores sum to R in each layer, and alike into and out of a unit."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, bias=False)
    net = nn.Sequential(
        convolution, nn.ReLU(), nn.Flatten(), nn.Linear(12, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False)
    )
    evidence = evidence_of(net, [(torch.randn(3, 2, 4, 4), torch.zeros(3, dtype=torch.long))])
    found = score(synflow, evidence)
    sums = [float(values.sum()) for values in found.values()]
    total = sums[0]
    assert sums == pytest.approx([total] * 3, rel=1e-12)
    torch.testing.assert_close(found["3.weight"].sum(1), found["5.weight"].sum(0))
    torch.testing.assert_close(found["0.weight"].sum((1, 2, 3)), found["3.weight"].sum(0).view(3, 4).sum(1))
    absolute = nn.Sequential(*net).double()
    for weight in absolute.parameters():
        weight.data.abs_()
    assert total == pytest.approx(float(absolute(torch.ones(1, 2, 4, 4, dtype=torch.float64)).sum().detach()))


def test_synflow_takes_the_statistics_of_batchnorm_absolute_too() -> None:
    net = nn.Sequential(linear([2.0]), nn.BatchNorm1d(1, eps=0), linear([-5.0])).eval()
    net[1].running_mean.data, net[1].running_var.data = torch.tensor([-1.0]), torch.tensor([4.0])
    net[1].weight.data, net[1].bias.data = torch.tensor([-3.0]), torch.tensor([-1.0])
    # (2 x 1 - 1) / 2 x 3 + 1 = 2.5; x 5 = 12.5. Slope in the first weight: 1 / 2 x 3 x 5 = 7.5
    evidence = evidence_of(net, [(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))])
    assert scores_of(synflow, evidence) == {"0.weight": [[15.0]], "2.weight": [[12.5]]}


def test_synflow_does_not_overflow_where_float32_would() -> None:
    net = nn.Sequential(*(linear([-1e10]) for _ in range(6)))
    found = scores_of(synflow, evidence_of(net, [(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))]))
    assert [values[0][0] for values in found.values()] == pytest.approx([1e60] * 6)


class Mixed(nn.Module):
    """Takes a dictionary and a keyword: signals, which examples to negate, and token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(3, 2), linear([1.0, -2.0], [3.0, 4.0])

    def forward(self, given: dict[str, Any], *, ids: Tensor) -> tuple[Tensor, str]:
        assert given["signal"].dtype != torch.float64 or given["signal"].shape == (1, 2), "one example"
        return self.out(given["signal"] + self.embedding(ids)), given["name"]


def test_synflow_puts_ones_for_the_floats_of_inputs_of_any_structure() -> None:
    net = Mixed()
    net.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]])
    evidence = evidence_of(net, [(torch.full((3, 2), -9.0), torch.tensor([1, 0, 2]))])
    evidence = replace(evidence, outputs=lambda b: net({"signal": b[0], "name": "a"}, ids=b[1]))
    # inputs of the layer: 1 + |(1, -2)| = (2, 3)
    assert scores_of(synflow, evidence) == {"out.weight": [[2, 6], [6, 12]]}


def test_synflow_refuses_what_it_can_not_make_ones_of() -> None:
    net = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"^the network's inputs have no floating-point tensor .*, as token ids have "):
        synflow(evidence_of(net, [(torch.tensor([0, 1]), torch.tensor([0.0, 1.0]))]))
    evidence = smooth()
    around = replace(evidence, net=Dressed(evidence.net), masks={f"net.{n}": m for n, m in evidence.masks.items()})
    with pytest.raises(ValueError, match=r"^no batch is given to the network as a whole, so that the shape of its inp"):
        synflow(around)


class Rigid(nn.Module):
    """Multiplies by a plain attribute, which stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fixed = nn.Linear(2, 2), torch.ones(2, 2)
        self.register_buffer("count", torch.tensor(-3))
        self.register_buffer("shift", torch.tensor([-0.0, -1.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.layer(inputs) + self.shift) @ self.fixed


def test_synflow_says_that_a_network_does_not_run_in_float64_and_puts_everything_back() -> None:
    evidence = evidence_of(Rigid().eval(), [(torch.zeros(2, 2), torch.tensor([0, 1]))])
    before = condition(evidence)
    with pytest.raises(ValueError, match=r"^the network does not run in float64 on an input of ones: .*dtype"):
        synflow(evidence)
    assert condition(evidence) == before


@pytest.mark.parametrize("criterion", [snip, taylor, taylor_magnitude, fisher, grasp, synflow])
def test_a_layer_out_of_use_scores_zero(criterion: Criterion) -> None:
    evidence = trained()
    evidence.net.add_module("auxiliary", nn.Linear(2, 2))
    evidence.net.forward = evidence.net[:-1].forward
    evidence.masks["auxiliary.weight"] = torch.ones(2, 2, dtype=torch.bool)
    scores = score(criterion, evidence)
    assert scores["auxiliary.weight"].tolist() == [[0, 0], [0, 0]]
    assert scores["0.weight"].any()


@pytest.mark.parametrize(
    ("criterion", "drawn"),
    [
        (partial(taylor, batches=2), 2),
        (partial(taylor_magnitude, batches=1), 1),
        (partial(fisher, examples=8), 1),
        (partial(fisher, examples=9), 2),
        (synflow, 1),
        (partial(grasp, batches=1), 2),  # the gradient, and then the Hessian
    ],
)
def test_no_more_batches_are_drawn_than_are_read(criterion: Criterion, drawn: int) -> None:
    evidence = trained()
    score(criterion, evidence)
    assert evidence.batches.drawn == drawn


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (partial(taylor, batches=0), "batches=0: must be at least 1"),
        (partial(taylor_magnitude, batches=0), "batches=0: must be at least 1"),
        (partial(fisher, examples=0), "examples=0: must be at least 1"),
        (partial(grasp, batches=0), "batches=0: must be at least 1"),
        (partial(grasp, temperature=0), "temperature=0: must be above 0"),
        (partial(grasp, temperature=-1.5), "temperature=-1.5: must be above 0"),
        (partial(grasp, temperature=float("nan")), "temperature=nan: must be above 0"),
    ],
)
def test_settings_out_of_range(criterion: Criterion, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        criterion(trained())


@pytest.mark.parametrize("criterion", [taylor, fisher])
def test_nothing_to_read(criterion: Criterion) -> None:
    with pytest.raises(ValueError, match=r"^there is no training batch to score with$"):
        criterion(replace(trained(), batches=[]))


@pytest.mark.parametrize("criterion", [snip, taylor, taylor_magnitude, fisher, grasp])
def test_a_loss_that_can_not_be_differentiated(criterion: Criterion) -> None:
    evidence = replace(
        trained(), objective=lambda batch: (convolutional().eval()(batch[0]).argmax(1) == 0).float().mean()
    )
    with pytest.raises(ValueError, match=r"^the loss has no gradient: nothing that the network computed in evaluation"):
        criterion(evidence)


def normalised() -> nn.Sequential:
    """A convolution with BatchNorm and a linear layer, as drawn."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)
    )
    return net.double().eval()


@pytest.mark.parametrize("criterion", [snip, partial(grasp, temperature=1)], ids=["snip", "grasp"])
def test_an_untrained_network_is_scored_as_its_training_begins(criterion: Criterion) -> None:
    net, torch_rng = normalised(), torch.Generator().manual_seed(1)
    batch = torch.randn(8, 1, 4, 4, generator=torch_rng).double(), torch.randint(3, (8,), generator=torch_rng)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = score(criterion, evidence_of(net, [batch]))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())

    own = normalised().train()  # what its first step would see
    weights = [own[0].weight, own[4].weight]
    loss = functional.cross_entropy(own(batch[0]), batch[1])
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    flow = sum((slope * slope.detach()).sum() for slope in slopes)
    products = torch.autograd.grad(flow, weights) if criterion is not snip else slopes
    for given, weight, product in zip(found.values(), weights, products, strict=True):
        expected = weight * product if criterion is not snip else (weight * product).abs()
        torch.testing.assert_close(given, expected.detach())

    net[1].num_batches_tracked += 1
    net[5].num_batches_tracked += 1  # trained: its own statistics count
    trained_scores = score(criterion, evidence_of(net, [batch]))
    assert not torch.allclose(trained_scores["0.weight"], found["0.weight"])
    for layer in (net[1], net[5]):  # as files from before batches were counted: statistics, and a count of none
        layer.running_mean += 0.5
    counted = score(criterion, evidence_of(net, [batch]))
    for layer in (net[1], net[5]):
        layer.num_batches_tracked.zero_()
    torch.testing.assert_close(score(criterion, evidence_of(net, [batch])), counted)
