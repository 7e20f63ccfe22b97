"""Criteria of units: each against arithmetic by hand and a slow way; how a unit's score reaches a pool of its rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.masking import alive
from lottery.pruning.channelwise import channels
from lottery.pruning.compensation.biases import mean as mean_compensation
from lottery.pruning.compensation.contracts import Pruned, compensated
from lottery.pruning.contracts import Criterion, Evidence, Target, choose, score
from lottery.pruning.criteria import (
    activation_statistics,
    apoz,
    batch_norm_scale,
    fpgm,
    magnitude,
    oracle,
    taylor_features,
    variance,
)
from lottery.pruning.criteria import normalised as rescaled
from lottery.pruning.criteria.units import rows, spread
from lottery.pruning.masks import dense, prunable
from lottery.pruning.scopes import layerwise, threshold
from tests.evidence import evidence_of, linear, trained


def units_of(criterion: Criterion, evidence: Evidence) -> dict[str, list[float]]:
    """The score of each unit, which all of its unpruned weights must have."""
    found = {}
    for name, scores in score(criterion, evidence).items():
        matrix, living = (rows({name: each}, evidence)[name] for each in (scores, evidence.masks[name]))
        of = [row[lives].unique() for row, lives in zip(matrix, living, strict=True)]
        assert all(len(values) <= 1 for values in of)
        found[name] = [values.item() if len(values) else 0.0 for values in of]
    return found


# how scores are spread


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_unit_has_the_weights_that_its_output_depends_on(kind: type[nn.Conv2d], groups: int) -> None:
    torch.manual_seed(0)
    net = kind(4, 6, 2, groups=groups, bias=False)
    evidence = evidence_of(net, [])
    found = spread({"weight": torch.arange(1.0, 7.0)}, evidence)["weight"]
    for unit, row in enumerate(rows(evidence.weights, evidence)["weight"]):
        net.zero_grad()
        net(torch.ones(1, 4, 3, 3))[0, unit].sum().backward()
        own = net.weight.grad != 0
        assert (found[own] == unit + 1).all()
        assert own.sum() == (found == unit + 1).sum() == len(row)
        assert sorted(net.weight[own].tolist()) == sorted(row.tolist())


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pools_give_a_unit_s_score_back_however_many_of_its_weights_live(pool: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    evidence = evidence_of(net, [])
    evidence.masks["0.weight"][1, 1:] = False  # the best unit has a single weight
    evidence.masks["0.weight"][2] = False
    scores = spread({"0.weight": torch.tensor([2.0, 3.0, 9.0]), "2.weight": torch.ones(2)}, evidence)
    assert scores["0.weight"].tolist() == [[2, 2, 2, 2], [3, 0, 0, 0], [0, 0, 0, 0]]
    found = coupled(net, lambda net: net(torch.zeros(1, 4)))
    structure = partial(channels, layerwise, budget="channels", pool=pool)
    for share, kept in ((2 / 3, [0, 1]), (1 / 3, [1])):
        masks = choose(structure, scores, evidence.masks, Target(share, share, channels=lambda: found))
        assert alive(found, masks)["0.weight"] == kept


# distances of filters


def test_distances_of_three_units_by_hand() -> None:
    """(0, 0), (3, 4) and (0, 8): distances 5, 8 and 5."""
    evidence = evidence_of(linear([0.0, 0.0], [3.0, 4.0], [0.0, 8.0]), [])
    assert units_of(fpgm, evidence) == {"weight": [13, 10, 13]}
    evidence.masks["weight"][0] = False  # is no neighbour any more
    assert units_of(fpgm, evidence) == {"weight": [0, 5, 5]}


def test_equal_units_have_no_distance() -> None:
    evidence = evidence_of(linear(*[[0.1, 0.7, 0.3]] * 40), [])
    assert max(units_of(fpgm, evidence)["weight"]) < 1e-5
    assert units_of(fpgm, evidence_of(linear([1.0, 2.0]), [])) == {"weight": [0]}


def test_distances_are_those_of_a_slow_way_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 40, 3)
    evidence = evidence_of(net, [])
    flat = net.weight.detach().double().flatten(1)
    expected = [sum(float((one - other).norm()) for other in flat) for one in flat]
    assert units_of(fpgm, evidence)["weight"] == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr("lottery.pruning.criteria.filters._CHUNK", 7)
    assert units_of(fpgm, evidence)["weight"] == pytest.approx(expected, rel=1e-6)


# BatchNorm's scale


def normalised(*more: nn.Module) -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), *more).eval()
    net[1].weight.data = torch.tensor([0.5, -2.0, 0.0])
    return net


def test_scales_of_batch_norm_and_deviations_where_there_is_none() -> None:
    net = normalised()
    inputs = torch.randn(6, 2), torch.randn(4, 2)
    found = units_of(batch_norm_scale, evidence_of(net, [(each, each) for each in inputs]))
    assert found["0.weight"] == [0.5, 2.0, 0.0]
    whole = net(torch.cat(inputs)).detach().double()
    assert found["3.weight"] == pytest.approx(whole.std(0, correction=0).tolist(), rel=1e-5)
    one = units_of(partial(batch_norm_scale, batches=1), evidence_of(net, [(each, each) for each in inputs]))
    assert one["3.weight"] == pytest.approx(net(inputs[0]).double().std(0, correction=0).tolist(), rel=1e-5)


def test_scales_need_a_batch_norm_that_has_some() -> None:
    for net in (linear([1.0, 2.0]), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)).eval()):
        batch = torch.ones(2, 2), torch.ones(2)
        with pytest.raises(
            ValueError, match=r"^no BatchNorm with a scale reads a layer's output as it is; criterion=v"
        ):
            score(batch_norm_scale, evidence_of(net, [batch]))


def test_a_batch_norm_over_other_channels_is_none_of_the_layer_s() -> None:
    """Of (examples, 3, 3) from a linear layer, BatchNorm1d has the places for channels."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(9, 3), nn.BatchNorm1d(3)).eval()
    net[1].weight.data = torch.tensor([5.0, 6.0, 7.0])
    net[4].weight.data = torch.tensor([1.0, 2.0, 3.0])
    inputs = torch.randn(4, 3, 2)
    found = units_of(batch_norm_scale, evidence_of(net, [(inputs, torch.zeros(4))]))
    assert found["3.weight"] == [1, 2, 3]
    own = net[0](inputs).detach().flatten(0, 1).std(0, correction=0)
    assert found["0.weight"] == pytest.approx(own.tolist(), rel=1e-5)


# activations


def activated() -> Evidence:
    """Two units whose activations after ReLU are (1, 0, 3, 0) and (2, 2, 2, 2)."""
    net = nn.Sequential(linear([1.0], [0.0]), nn.ReLU())
    net[0].bias = nn.Parameter(torch.tensor([0.0, 2.0]))
    return evidence_of(net, [(torch.tensor([[1.0], [-1.0]]), torch.zeros(2)), (torch.tensor([[3.0], [-3.0]]),) * 2])


def test_zeros_are_counted_over_examples_and_batches() -> None:
    assert units_of(apoz, activated()) == {"0.weight": [0.5, 1.0]}
    third = replace(activated(), batches=[(torch.tensor([[1.0], [-1.0], [-2.0]]), torch.zeros(3))])
    assert units_of(apoz, third)["0.weight"] == pytest.approx([1 / 3, 1])
    assert units_of(partial(apoz, batches=1), replace(activated(), batches=[(torch.ones(1, 1),) * 2])) == {
        "0.weight": [1, 1]
    }


def test_moments_by_hand() -> None:
    """Mean 1 and 2; squares (1 + 9) / 4 - 1 = 1.5 and 0."""
    assert units_of(variance, activated()) == {"0.weight": [1.5, 0]}
    found = units_of(partial(activation_statistics, mean=0.5, deviation=0.5), activated())
    assert found["0.weight"] == pytest.approx([max(1 / 0.5, 1.5**0.5 / 0.5), 4])
    found = units_of(partial(activation_statistics, mean=4.0, deviation=0.5), activated())
    assert found["0.weight"] == pytest.approx([1.5**0.5 / 0.5, 0.5])
    assert units_of(partial(variance, batches=1), activated()) == {"0.weight": [0.25, 0]}


def test_every_place_of_a_map_counts() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    net[0].weight.data.fill_(1.0)
    inputs = torch.tensor([[[[1.0, -1.0], [3.0, -1.0]]], [[[-1.0, -1.0], [-1.0, 4.0]]]])
    evidence = evidence_of(net, [(inputs, torch.zeros(2))])
    assert units_of(apoz, evidence) == {"0.weight": [3 / 8]}
    assert units_of(variance, evidence)["0.weight"] == [26 / 8 - 1]  # of 1, 3, 4 and five zeros
    single = evidence_of(net, [(inputs[0], torch.zeros(1))])  # without a dimension of examples
    assert units_of(apoz, single) == {"0.weight": [1 / 2]}


@pytest.mark.parametrize("criterion", [apoz, variance, taylor_features, oracle])
def test_a_layer_that_is_not_called_has_no_outputs_to_see(criterion: Criterion) -> None:
    net = nn.MultiheadAttention(4, 2)
    batch = torch.randn(3, 1, 4)
    evidence = replace(
        evidence_of(net, [batch]),
        outputs=lambda batch: net(batch, batch, batch),
        objective=lambda batch: net(batch, batch, batch)[0].square().mean(),
    )
    with pytest.raises(ValueError, match=r"^the outputs that out_proj\.weight makes can't be seen: its layer is no"):
        score(criterion, evidence)


def test_thresholds_of_mean_and_deviation_drop_units_that_are_near_zero_in_both() -> None:
    """The rule of activation-statistics pruning: a neuron goes if |mean| < 0.1 and deviation < 0.4."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2))
    net[0].weight.data *= torch.rand(40, 1)
    inputs = torch.randn(50, 3)
    hidden = net[:2](inputs).detach()
    expected = ((hidden.mean(0).abs() > 0.1) | (hidden.std(0, correction=0) > 0.4)).nonzero().flatten().tolist()
    assert 5 < len(expected) <= 35
    evidence = evidence_of(net, [(inputs, torch.zeros(50))])
    found = coupled(net, lambda net: net(inputs))
    structure = partial(channels, partial(threshold, above=1.0), budget="channels")
    scores = score(activation_statistics, evidence)
    masks = choose(structure, scores, evidence.masks, Target(0.5, 0.5, channels=lambda: found))
    assert alive(found, masks) == {"0.weight": expected}


@pytest.mark.parametrize(("name", "wrong"), [("mean", 0.0), ("deviation", -1.0)])
def test_thresholds_must_be_positive(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}={wrong:g}: must be above 0$"):
        score(partial(activation_statistics, **{name: wrong}), activated())


def test_units_of_no_variance_are_replaced_by_their_mean_without_a_trace() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    net[0].weight.data[[1, 2]] = 0.0
    inputs = torch.randn(8, 3, dtype=torch.float64)
    evidence = evidence_of(net, [(inputs, torch.zeros(8))])
    found = coupled(net, lambda net: net(inputs))
    structure = partial(channels, layerwise, budget="channels")
    masks = choose(structure, score(variance, evidence), dense(prunable(net)), Target(0.5, 0.5, channels=lambda: found))
    assert alive(found, masks) == {"0.weight": [0, 3]}
    pruned = Pruned(net, masks, evidence.batches, lambda net, batch: net(batch[0]))
    before = net(inputs).detach()
    net.load_state_dict(compensated(mean_compensation, pruned))
    torch.testing.assert_close(net(inputs), before, rtol=0, atol=1e-12)


# activation x gradient


def test_first_order_change_of_two_units_by_hand() -> None:
    """Outputs (-5, 15), then (2, 6); errors (1, -1), then (-3, 0): changes (-5, -15), then (-6, 0)."""
    net = linear([1.0, -2.0], [3.0, 4.0])
    first = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])
    second = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 6.0]])
    both = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def found(*batches: tuple[Tensor, Tensor], **more: int) -> list[float]:
        evidence = evidence_of(net, batches, functional.mse_loss)
        return units_of(partial(taylor_features, **more), evidence)["weight"]

    assert found(first) == pytest.approx([5 / 250**0.5, 15 / 250**0.5])
    # examples do not cancel out, and count alike whatever their batch
    half = [5.5 / (5.5**2 + 7.5**2) ** 0.5, 7.5 / (5.5**2 + 7.5**2) ** 0.5]
    assert found(both) == pytest.approx(half)
    assert found(first, second) == pytest.approx(half)
    third = [(5 + 6 + 6) / 3, (15 + 0 + 0) / 3]
    assert found(both, second) == pytest.approx([each / (third[0] ** 2 + third[1] ** 2) ** 0.5 for each in third])
    assert found(first, second, batches=1) == found(first)


class Block(nn.Module):
    """Convolutions with BatchNorm and activations of several kinds, a shortcut, and a linear layer."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.out, self.in_place = nn.Linear(3, 2), in_place
        self.gates: dict[str, Tensor] = {}

    def gate(self, name: str, feature: Tensor) -> Tensor:
        return feature * self.gates[name] if name in self.gates else feature

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.gate("one", functional.gelu(self.norm(self.one(inputs))))
        added = self.gate("two", self.two(hidden))
        if self.in_place:
            added += hidden
            functional.relu_(added)
        else:
            added = torch.relu(added + hidden)
        return self.gate("out", self.out(added.mean((2, 3))))


@pytest.mark.parametrize("in_place", [False, True])
def test_first_order_change_is_the_slope_in_a_gate_on_the_map(in_place: bool) -> None:
    torch.manual_seed(0)
    net = Block(in_place).double().eval()
    net.norm.running_mean += torch.rand(3)
    inputs, targets = torch.randn(4, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    found = units_of(taylor_features, evidence_of(net, [(inputs, targets)]))
    for name, places in (("one", 25), ("two", 25), ("out", 1)):
        size = 2 if name == "out" else 3
        slopes = torch.zeros(4, size, dtype=torch.float64)
        for example, unit in product(range(4), range(size)):
            losses = []
            for step in (1e-5, -1e-5):
                gate = torch.ones(1, size, dtype=torch.float64)
                gate[0, unit] += step
                net.gates = {name: gate if name == "out" else gate[..., None, None]}
                losses.append(functional.cross_entropy(net(inputs[[example]]), targets[[example]]).item())
            slopes[example, unit] = (losses[0] - losses[1]) / 2e-5 / places
        expected = slopes.abs().mean(0)
        assert found[f"{name}.weight"] == pytest.approx((expected / expected.norm()).tolist(), rel=1e-6)
        net.gates = {}


def test_what_a_map_costs_is_taken_of_its_score() -> None:
    """A map of 16 places and a kernel of 9 weights: 288 operations; a neuron with 48 inputs: 96."""
    evidence = trained()
    for mask in evidence.masks.values():
        mask.fill_(True)
    free = units_of(taylor_features, evidence)
    taxed = units_of(partial(taylor_features, flops=1000.0), evidence)
    for name, cost in (("0.weight", 288), ("5.weight", 96)):
        assert [a - b for a, b in zip(free[name], taxed[name], strict=True)] == pytest.approx(
            [cost / 1000] * len(free[name]), abs=1e-6
        )
    evidence.masks["5.weight"][:, ::2] = False  # what is pruned costs nothing
    less = units_of(partial(taylor_features, flops=1000.0), evidence)["5.weight"]
    again = units_of(taylor_features, evidence)["5.weight"]
    assert [a - b for a, b in zip(again, less, strict=True)] == pytest.approx([0.048] * 4, abs=1e-6)
    with pytest.raises(ValueError, match=r"^flops=-1: must be 0 or more$"):
        score(partial(taylor_features, flops=-1.0), evidence)


def test_a_map_without_influence_has_no_change() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    evidence = evidence_of(net, [(torch.ones(1, 2),) * 2])
    apart = replace(evidence, objective=lambda batch: (net(batch[0]) * 0 + net[0](batch[0])).square().sum())
    found = score(taylor_features, apart)
    assert not found["1.weight"].any()
    assert found["0.weight"].any()


def test_a_loss_without_a_gradient_is_refused() -> None:
    net = nn.Linear(2, 2)
    evidence = replace(evidence_of(net, [torch.ones(1, 2)]), objective=lambda batch: net(batch).detach().sum())
    with pytest.raises(ValueError, match=r"^the loss has no gradient: nothing that the network computed in evaluation"):
        score(taylor_features, evidence)


# which map is a unit's


class Several(nn.Module):
    def __init__(self, then: str) -> None:
        super().__init__()
        self.layer, self.then, self.act = nn.Linear(2, 2, bias=False), then, nn.ReLU(inplace=True)
        self.layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layer(inputs)  # (1, -2)
        match self.then:
            case "relu":
                return found.relu() + 1
            case "in place":
                return self.act(found) + 1
            case "discarded":
                self.act(found)
                return found + 1
            case "discarded sigmoid":
                found.sigmoid_()
                return found + 1
            case "twice":
                return found * torch.sigmoid(found)
            case "added in place":
                found += 5
                return torch.relu(found)
            case "listed":
                return torch.cat([torch.relu(found), found])
            case _:
                return torch.tanh(functional.relu6(found) + found.shape[0])


@pytest.mark.parametrize(
    ("then", "map_", "change"),
    [
        ("relu", [1, 0], [1, 0]),
        ("in place", [1, 0], [1, 0]),
        ("discarded", [1, 0], [1, 0]),
        ("discarded sigmoid", [0.7311, 0.1192], [0.7311, 0.1192]),
        ("added in place", [1, -2], [1, -2]),
        ("listed", [1, -2], [2, -2]),  # slopes of relu(x) + x: 2 and 1
        ("twice", [1, -2], [0.9277, 0.1816]),  # x (s + x s (1 - s)), s = 1 / (1 + exp(-x))
        ("clipped", [1, 0], [0.0707, 0]),  # slope 1 - tanh(2)^2
    ],
)
def test_a_map_is_followed_until_something_else_reads_it(then: str, map_: list[float], change: list[float]) -> None:
    net, batch = Several(then), torch.tensor([[1.0, 2.0]])
    evidence = replace(evidence_of(net, []), outputs=net, objective=lambda batch: net(batch).sum())
    before = net(batch)
    [found] = evidence.features(batch, lambda units: units.flatten().tolist())["layer.weight"]
    assert found == pytest.approx(map_, abs=1e-4)
    [(changes, positions)] = evidence.feature_changes(batch)["layer.weight"]
    assert changes[0].tolist() == pytest.approx(change, abs=1e-4)
    assert positions == 1
    assert torch.equal(net(batch), before)


class Sigmoids(nn.Module):
    """The same network however its activations are written; what a function in place returns may be dropped."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.how = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), how
        self.act = nn.SiLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        one = self.a(inputs)
        if self.how == "dropped":
            one.sigmoid_()
            two = self.b(one)
            self.act(two)
        elif self.how == "used":
            one = torch.sigmoid_(one)
            two = functional.silu(input=self.b(one), inplace=True)
        else:
            two = functional.silu(self.b(torch.sigmoid(one)))
        return self.c(two)


@pytest.mark.parametrize("criterion", [taylor_features, apoz, variance, activation_statistics, oracle])
@pytest.mark.parametrize("how", ["dropped", "used"])
def test_an_activation_in_place_is_followed_whatever_becomes_of_what_it_returns(criterion: Criterion, how: str) -> None:
    found = []
    for each in (how, "out of place"):
        torch.manual_seed(0)
        evidence = evidence_of(Sigmoids(each), [(torch.randn(6, 3), torch.randint(2, (6,)))])
        found.append(score(criterion, evidence))
    one, other = found
    assert all(torch.equal(values, other[name]) for name, values in one.items())


# what a unit does, measured


def test_change_of_the_loss_without_each_of_two_units_by_hand() -> None:
    """Outputs (-5, 15) against (-6, 16): a mean square of 1; (36 + 1) / 2 and (1 + 256) / 2 without a unit."""
    net = linear([1.0, -2.0], [3.0, 4.0])
    first = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])
    second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 6.0]])  # outputs (2, 6): 2, then 0 and (4 + 36) / 2
    found = units_of(oracle, evidence_of(net, [first, second], functional.mse_loss))
    assert found == {"weight": [17.5, 127.5]}
    both = units_of(partial(oracle, batches=2), evidence_of(net, [first, second], functional.mse_loss))
    assert both == {"weight": [(17.5 - 2) / 2, (127.5 + 18) / 2]}  # what one batch gains, another may lose
    helped = units_of(oracle, evidence_of(net, [second], functional.mse_loss))
    assert helped == {"weight": [2, 18]}  # a loss that falls counts as one that rises


@pytest.mark.parametrize("in_place", [False, True])
def test_a_silent_unit_is_one_whose_gate_is_closed(in_place: bool) -> None:
    torch.manual_seed(0)
    net = Block(in_place).double().eval()
    net.norm.running_mean += torch.rand(3)
    inputs, targets = torch.randn(4, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    evidence = evidence_of(net, [(inputs, targets)])
    evidence.masks["two.weight"][1] = False
    found = units_of(oracle, evidence)
    whole = evidence.loss((inputs, targets)).item()
    for name, size in (("one", 3), ("two", 3), ("out", 2)):
        for unit in range(size):
            gate = torch.ones(1, size, dtype=torch.float64)
            gate[0, unit] = 0
            net.gates = {name: gate if name == "out" else gate[..., None, None]}
            expected = abs(evidence.loss((inputs, targets)).item() - whole) if (name, unit) != ("two", 1) else 0
            assert found[f"{name}.weight"][unit] == pytest.approx(expected, rel=1e-9)
        net.gates = {}


def test_a_unit_that_is_read_before_and_after_its_activation_is_silent_in_both() -> None:
    """x + sigmoid(x) of 3 and -1: the map is x, of which sigmoid(0) = 0.5 is left."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([3.0], [-1.0])

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.layer(inputs)
            return hidden + hidden.sigmoid()

    evidence = evidence_of(Twice(), [(torch.ones(1, 1), torch.zeros(1))], lambda outputs, _: outputs.sum())
    of = torch.tensor([3.0, -1.0])
    assert units_of(oracle, evidence)["layer.weight"] == pytest.approx((of + of.sigmoid() - 0.5).abs().tolist())


def test_all_calls_of_a_layer_are_silent_at_once() -> None:
    """(1, 1) becomes (2, 1), then (3, 1); without the first unit (0, 1) both times, without the second (2, 0)."""
    layer = linear([1.0, 1.0], [0.0, 1.0])
    evidence = evidence_of(nn.Sequential(layer, layer), [(torch.ones(1, 2),) * 2], lambda outputs, _: outputs.sum())
    assert units_of(oracle, evidence) == {"0.weight": [3, 2]}


def test_first_order_change_is_the_oracle_of_small_maps() -> None:
    """As a map shrinks, its change of the loss tends to |sum of activation x gradient|, without norms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    net[0].weight.data *= 1e-4
    net[0].bias.data *= 1e-4
    batch = torch.randn(1, 3, dtype=torch.float64), torch.tensor([1])
    evidence = evidence_of(net, [batch])
    first = units_of(partial(taylor_features, normalised=False), evidence)
    assert units_of(oracle, evidence)["0.weight"] == pytest.approx(first["0.weight"], rel=1e-3)


def test_without_norms_changes_are_as_they_are() -> None:
    net = linear([1.0, -2.0], [3.0, 4.0])
    batch = torch.tensor([[1.0, 3.0]]), torch.tensor([[-6.0, 16.0]])
    evidence = evidence_of(net, [batch], functional.mse_loss)
    assert units_of(partial(taylor_features, normalised=False), evidence) == {"weight": [5, 15]}


def test_any_criterion_is_normalised_by_the_units_of_each_layer() -> None:
    """Means of living weights 3 and 4, then 6 and 8: norms 5 and 10; a unit of which nothing lives counts nothing."""
    net = nn.Sequential(linear([1.0, -5.0], [4.0, 9.0]), linear([6.0, 6.0], [-8.0, 8.0], [7.0, 1.0]))
    evidence = evidence_of(net, [])
    evidence.masks["0.weight"][1, 1] = False
    evidence.masks["1.weight"][2] = False
    found = score(partial(rescaled, of=magnitude), evidence)
    assert found["0.weight"].tolist() == [[pytest.approx(1 / 5), 1], [pytest.approx(4 / 5), pytest.approx(9 / 5)]]
    assert found["1.weight"][:2].flatten().tolist() == pytest.approx([0.6, 0.6, 0.8, 0.8])
    zeros = evidence_of(linear([0.0, 0.0]), [])
    assert score(partial(rescaled, of=magnitude), zeros)["weight"].tolist() == [[0, 0]]


def test_normalised_activation_x_gradient_is_that_of_the_criterion_itself() -> None:
    evidence = trained()
    own = units_of(taylor_features, evidence)
    other = units_of(partial(rescaled, of=partial(taylor_features, normalised=False)), evidence)
    for name, units in own.items():
        assert other[name] == pytest.approx(units, rel=1e-5)


def test_what_a_wrapped_criterion_refuses_has_its_key() -> None:
    with pytest.raises(ValueError, match=r"^of\.batches=0: must be at least 1$"):
        score(partial(rescaled, of=partial(apoz, batches=0)), activated())
