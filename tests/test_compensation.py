"""Compensations against closed forms: what survivors make up for, and how exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lottery.pruning.compensation import regression
from lottery.pruning.compensation.biases import mean
from lottery.pruning.compensation.contracts import Compensation, Pruned, compensated
from lottery.pruning.compensation.inputs import layers, matrix, rows
from lottery.pruning.compensation.norms import norm
from lottery.pruning.compensation.regression import least_squares, obs
from lottery.pruning.compensation.statistics import batch_norm
from lottery.pruning.masks import Masks, dense, prunable


def pruned_of(net: nn.Module, masks: Masks, *batches: Tensor) -> Pruned:
    return Pruned(net.eval(), masks, batches, lambda net, batch: net(batch))


def columns(net: nn.Module, name: str, *lost: int) -> Masks:
    """Masks that prune inputs of one layer."""
    masks = dense(prunable(net))
    masks[name][:, list(lost)] = False
    return masks


def none(pruned: Pruned) -> dict[str, Tensor]:
    """Survivors stay as they are."""
    return {}


def after(compensation: Compensation, pruned: Pruned, inputs: Tensor) -> Tensor:
    """Outputs of the pruned network, compensated."""
    with torch.no_grad():
        return torch.func.functional_call(pruned.net, compensated(compensation, pruned), inputs)


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def test_none_gives_the_masked_network(net: nn.Module, batch: Tensor) -> None:
    pruned = pruned_of(net, columns(net, "2.weight", 1), batch)
    state = compensated(none, pruned)
    assert not state["2.weight"][:, 1].any()
    assert all(state[name].equal(value) for name, value in net.state_dict().items() if name != "2.weight")


def test_mean_is_exact_for_a_unit_that_never_varies(net: nn.Module, batch: Tensor) -> None:
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0, 0.75
    pruned = pruned_of(net, columns(net, "2.weight", 2), batch)
    wanted = net[2].bias + 0.75 * net[2].weight[:, 2]
    torch.testing.assert_close(compensated(mean, pruned)["2.bias"], wanted, rtol=0, atol=1e-15)
    torch.testing.assert_close(after(mean, pruned, batch), net(batch), rtol=0, atol=1e-14)
    assert (after(none, pruned, batch) - net(batch)).abs().max() > 0.01


def test_mean_goes_into_the_batch_norm_of_a_layer_without_a_bias() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)).double()
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, 2.0
        net[3].running_var.fill_(3.0)
    inputs = torch.randn(4, 2, 9, 9, dtype=torch.float64)
    pruned = pruned_of(net, columns(net, "2.weight", 1), inputs)
    lost = 2 * net[2].weight[:, 1].sum((1, 2))
    torch.testing.assert_close(compensated(mean, pruned)["3.running_mean"], -lost, rtol=0, atol=1e-13)
    torch.testing.assert_close(after(mean, pruned, inputs), net(inputs), rtol=0, atol=1e-12)


def test_a_layer_with_neither_bias_nor_batch_norm_stays(batch: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)).double()
    pruned = pruned_of(net, columns(net, "2.weight", 2), batch)
    assert mean(pruned) == {}


class Residual(nn.Module):
    """A layer without a bias whose output a BatchNorm reads, and another module beside it if there is one."""

    def __init__(self, beside: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm, self.beside = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), beside
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        made = self.layer(inputs)
        read: Tensor = self.norm(made)
        return read if self.beside is None else read + self.beside(made)


def test_mean_goes_into_a_batch_norm_that_alone_reads_the_layer(batch: Tensor) -> None:
    for beside, found in ((None, {"norm.running_mean"}), (nn.Softplus(), set())):
        net = Residual(beside)
        assert mean(pruned_of(net, columns(net, "layer.weight", 1), batch)).keys() == found


class Shared(nn.Module):
    """A BatchNorm reads a layer, and something else that is made of another."""

    def __init__(self, second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.norm, self.second = nn.BatchNorm1d(4), second

    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.norm(self.one(inputs)) + self.norm(self.second(self.two(inputs)))
        return made


@pytest.mark.parametrize("second", [torch.clone, Tensor.relu, lambda made: made, lambda made: made.view_as(made)])
@pytest.mark.parametrize("lost", [("one.weight",), ("one.weight", "two.weight")])
@pytest.mark.parametrize("compensation", [mean, least_squares])
def test_a_batch_norm_that_reads_something_else_too_is_left_alone(
    compensation: Compensation, lost: tuple[str, ...], second: Callable[[Tensor], Tensor], batch: Tensor
) -> None:
    net = Shared(second).double()
    masks = {name: torch.ones(4, 3).bool() for name in ("one.weight", "two.weight")}
    for name in lost:
        masks[name][:, 1] = False
    assert "norm.running_mean" not in compensation(pruned_of(net, masks, batch))


def test_mean_stays_out_of_a_batch_norm_that_reads_what_was_changed_in_place(batch: Tensor) -> None:
    class InPlace(Residual):
        def forward(self, inputs: Tensor) -> Tensor:
            made: Tensor = self.norm(functional.relu_(self.layer(inputs)))
            return made

    net = InPlace()
    assert mean(pruned_of(net, columns(net, "layer.weight", 1), batch)) == {}


class ByKeyword(Residual):
    """Calls its layers by keyword."""

    def forward(self, inputs: Tensor) -> Tensor:
        made = self.layer(input=inputs)
        read: Tensor = self.norm(input=made)
        return read if self.beside is None else read + self.beside(input=made)


def test_layers_that_are_called_by_keyword_are_compensated_alike(batch: Tensor) -> None:
    for beside in (None, nn.Softplus()):
        torch.manual_seed(0)
        net, other = Residual(beside), ByKeyword(beside)
        other.load_state_dict(net.state_dict())
        for compensation in (mean, least_squares, obs, batch_norm):
            pruned, by_keyword = (pruned_of(each, columns(each, "layer.weight", 1), batch) for each in (net, other))
            found, wanted = compensated(compensation, by_keyword), compensated(compensation, pruned)
            assert all(value.equal(wanted[name]) for name, value in found.items())


def test_norm_restores_the_length_of_each_row() -> None:
    net = nn.Linear(2, 3, bias=False)
    net.weight = nn.Parameter(torch.tensor([[3.0, 4.0], [-3.0, 4.0], [0.0, 2.0]]))
    masks = {"weight": torch.tensor([[True, False], [False, True], [True, False]])}
    state = compensated(norm, pruned_of(net, masks))
    # the last row keeps a zero alone, which no factor makes longer
    assert state["weight"].tolist() == [[5, 0], [0, 5], [0, 0]]


@pytest.mark.parametrize("damping", [1e-9, 0.1])
def test_least_squares_is_a_regression_with_an_intercept(damping: float) -> None:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + 3)
    net = nn.Linear(6, 2).double()
    masks = {"weight": torch.tensor([[True, False, True, True, False, True], [False, True, True, True, True, False]])}
    pruned = pruned_of(net, masks, inputs[:20], inputs[20:])  # two batches count as one
    state = compensated(lambda pruned: least_squares(pruned, damping=damping), pruned)
    outputs = net(inputs).detach().numpy()
    weak = np.sqrt(50 * damping * inputs.var(0, correction=0).mean().item())
    for row, keep in enumerate(masks["weight"].numpy()):
        # damping is as many further rows, which ask for the weights as they were
        former = np.column_stack([weak * np.eye(4), np.zeros(4)])
        design = np.vstack([np.column_stack([inputs[:, keep], np.ones(50)]), former])
        asked = np.concatenate([outputs[:, row], weak * net.weight.detach().numpy()[row, keep]])
        fitted = np.linalg.lstsq(design, asked, rcond=None)[0]
        assert np.allclose(state["weight"][row, keep], fitted[:-1], rtol=0, atol=1e-9)
        assert np.allclose(state["bias"][row], fitted[-1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("side", [1, 4, 6, 256])
def test_moments_are_those_of_all_inputs_however_products_are_cut(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "SIDE", side)
    net = nn.Conv2d(4, 2, (1, 3), groups=2, bias=False).double()
    inputs = torch.randn(30, 4, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 5
    masks = {"weight": torch.zeros_like(net.weight, dtype=torch.bool)}
    pruned = pruned_of(net, masks, inputs[:10], inputs[10:])
    mean, covariance = regression._moments(pruned, 2)["weight"]
    for group, of in enumerate((inputs[:, :2], inputs[:, 2:])):
        torch.testing.assert_close(mean[group], of.flatten(1).mean(0), rtol=0, atol=1e-14)
        torch.testing.assert_close(covariance[group], of.flatten(1).T.cov(correction=0), rtol=0, atol=1e-13)


def test_least_squares_without_a_bias_is_a_regression_through_the_origin() -> None:
    inputs = torch.randn(50, 4, dtype=torch.float64) + 2
    net = nn.Linear(4, 1, bias=False).double()
    masks = {"weight": torch.tensor([[True, True, False, False]])}
    state = compensated(lambda pruned: least_squares(pruned, damping=1e-12), pruned_of(net, masks, inputs))
    fitted = np.linalg.lstsq(inputs[:, :2].numpy(), net(inputs).detach().numpy()[:, 0], rcond=None)[0]
    assert np.allclose(state["weight"][0, :2], fitted, rtol=0, atol=1e-9)


def test_a_unit_that_another_one_repeats_is_made_up_for(net: nn.Module, batch: Tensor) -> None:
    with torch.no_grad():
        net[0].weight[3], net[0].bias[3] = 2 * net[0].weight[1], 2 * net[0].bias[1]
    pruned = pruned_of(net, columns(net, "2.weight", 3), batch)
    repeated = compensated(lambda pruned: least_squares(pruned, damping=1e-10), pruned)["2.weight"]
    torch.testing.assert_close(repeated[:, 1], net[2].weight[:, 1] + 2 * net[2].weight[:, 3], rtol=0, atol=1e-8)
    torch.testing.assert_close(after(least_squares, pruned, batch), net(batch), rtol=0, atol=1e-3)


def slow_obs(weight: np.ndarray, kept: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """OBS's formula for one weight at a time; the inverse Hessian is that of the columns not yet visited."""
    weight = weight.copy()
    for row, keep in zip(weight, kept, strict=True):
        for column in range(len(row)):
            inverse = np.linalg.inv(hessian[column:, column:])
            if not keep[column]:
                row[column:] -= row[column] / inverse[0, 0] * inverse[0]
    return weight * kept


def test_large_means_do_not_cancel_in_single_precision() -> None:
    """Inputs of 1000 ± 1: their squares, in float32, are exact to 0.06, which is of the size of the covariances."""
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(4096, 3, generator=rng) @ torch.tensor([[1.0, 0.5, 0.3], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]])
    inputs += 1000
    net = nn.Linear(3, 1)
    masks = {"weight": torch.tensor([[True, True, False]])}
    state = compensated(lambda pruned: least_squares(pruned, damping=1e-9), pruned_of(net, masks, inputs))
    centred = (inputs.double() - inputs.double().mean(0)).numpy()
    asked = centred @ net.weight.detach().double().numpy()[0]
    fitted = np.linalg.lstsq(centred[:, :2], asked, rcond=None)[0]
    assert np.allclose(state["weight"][0, :2], fitted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [7, 300])  # one block, and several
def test_obs_is_the_formula_of_one_weight_after_another(size: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2 * size, size, dtype=torch.float64) @ torch.randn(size, size, dtype=torch.float64)
    net = nn.Linear(size, 2, bias=False).double()
    masks = {"weight": torch.rand(2, size) < 0.6}
    state = compensated(lambda pruned: obs(pruned, damping=0.01), pruned_of(net, masks, inputs))
    hessian = (inputs.T @ inputs / len(inputs)).numpy()
    hessian += 0.01 * hessian.diagonal().mean() * np.eye(size)
    wanted = slow_obs(net.weight.detach().numpy(), masks["weight"].numpy(), hessian)
    assert np.allclose(state["weight"], wanted, rtol=1e-6, atol=1e-8)


def test_batch_norm_is_measured_under_the_masks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
    batches = torch.randn(2, 30, 3, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pruned = pruned_of(net, columns(net, "0.weight", 0), *batches)
    state = compensated(batch_norm, pruned)
    outputs = functional.linear(batches, state["0.weight"], net[0].bias)
    torch.testing.assert_close(state["1.running_mean"], outputs.mean(1).mean(0))
    torch.testing.assert_close(state["1.running_var"], outputs.var(1).mean(0))
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


def test_a_batch_norm_that_no_batch_reaches_keeps_its_statistics(batch: Tensor) -> None:
    net = Residual()
    net.aside, net.without = nn.BatchNorm1d(2), nn.BatchNorm1d(4)
    net.aside.running_mean.fill_(5.0)
    net.without.running_mean = None  # as of one that was made with track_running_stats=False
    pruned = pruned_of(net, columns(net, "layer.weight", 0), batch)
    state = compensated(batch_norm, pruned)
    assert state["aside.running_mean"].tolist() == [5, 5]
    assert state["norm.running_mean"].any()


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 2), "padding": "same", "dilation": 2},
    {"kernel_size": 3, "groups": 2, "padding": (2, 1)},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 2, "padding": "valid"},
    {"kernel_size": (2, 3), "stride": (1, 3), "dilation": (2, 1)},
]


@pytest.mark.parametrize("how", CONVOLUTIONS, ids=str)
def test_a_convolution_is_its_weight_as_a_matrix_times_rows(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, bias=False, **how)).double()
    inputs = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    masks = {"0.weight": torch.zeros_like(net[0].weight, dtype=torch.bool)}
    pruned = pruned_of(net, masks, inputs)
    (found,) = rows(pruned, 1, places=10**6)
    products = torch.einsum("goc,grc->rgo", matrix(layers(pruned)["0.weight"], net[0].weight), found["0.weight"])
    torch.testing.assert_close(products.flatten(1), net(inputs).movedim(1, -1).flatten(end_dim=-2))
    (few,) = rows(pruned, 1, places=5)
    every = found["0.weight"].unflatten(1, (2, -1))
    taken = torch.linspace(0, every.shape[2] - 1, 7)[1:-1].round().long()
    assert few["0.weight"].equal(every[:, :, taken].flatten(1, 2))


def test_a_weight_that_two_layers_share_is_left_alone(batch: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    net[2].weight = net[0].weight
    masks = {"0.weight": torch.eye(3) > 0}
    assert least_squares(pruned_of(net, masks, batch)) == {}


def test_few_positions_of_a_picture_lie_inside_it() -> None:
    """Of nine positions in a row, three are a quarter, a half and three quarters of the way."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1)).double()
    masks = {"0.weight": torch.zeros_like(net[0].weight, dtype=torch.bool)}
    inputs = torch.arange(9.0, dtype=torch.float64).view(1, 1, 1, 9)
    for places, wanted in ((1, [4]), (3, [2, 4, 6]), (9, list(range(9)))):
        (found,) = rows(pruned_of(net, masks, inputs), 1, places=places)
        assert found["0.weight"].flatten().tolist() == wanted


def test_all_names_of_a_shared_weight_have_what_a_compensation_gives_it(batch: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    net[2].weight = net[0].weight
    pruned = pruned_of(net, {"0.weight": torch.eye(3) > 0}, batch)
    state = compensated(lambda pruned: {"0.weight": torch.ones(3, 3)}, pruned)
    assert state["0.weight"].equal(torch.eye(3).double())
    assert state["2.weight"].equal(torch.eye(3).double())
    first = functional.linear(batch, net[0].weight * torch.eye(3), net[0].bias)
    torch.testing.assert_close(compensated(batch_norm, pruned)["1.running_mean"], first.mean(0))


@pytest.mark.parametrize("compensation", [least_squares, obs])
def test_damping_must_be_positive(compensation: Any, net: nn.Module, batch: Tensor) -> None:
    with pytest.raises(ValueError, match=r"compensation\.damping=0: must be above 0"):
        compensation(pruned_of(net, columns(net, "2.weight", 1), batch), damping=0)


@pytest.mark.parametrize("compensation", [mean, least_squares, obs, batch_norm])
def test_there_must_be_a_batch(compensation: Any, net: nn.Module, batch: Tensor) -> None:
    with pytest.raises(ValueError, match=r"compensation\.batches=0: must be at least 1"):
        compensation(pruned_of(net, columns(net, "2.weight", 1), batch), batches=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"2.wight": torch.zeros(1)}, "gives 2.wight of shape .*; the network has no such tensor"),
        ({"2.bias": torch.zeros(3)}, r"gives 2.bias of shape \(3,\); it has shape \(2,\)"),
        ({"2.bias": torch.tensor([0.0, float("nan")])}, "gives 2.bias values that are not finite"),
    ],
)
def test_what_a_compensation_returns_is_checked(
    given: dict[str, Tensor], message: str, net: nn.Module, batch: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        compensated(lambda pruned: given, pruned_of(net, columns(net, "2.weight", 1), batch))


def test_pruned_weights_are_zero_and_frozen_ones_stay_whatever_is_returned(net: nn.Module, batch: Tensor) -> None:
    net[0].bias.requires_grad_(False)
    pruned = pruned_of(net, columns(net, "2.weight", 1), batch)
    ones = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
    state = compensated(lambda pruned: ones, pruned)
    assert state["2.weight"].tolist() == [[1, 0, 1, 1, 1]] * 2
    assert state["0.bias"].equal(net[0].bias)
    assert state["2.bias"].tolist() == [1, 1]


@pytest.mark.parametrize("norm", [False, True])
def test_a_frozen_weight_is_made_up_for_in_the_bias_alone(norm: bool) -> None:
    """No weight is refitted, so what the outputs lack on average is all that was pruned, times its mean input."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) + 1
    layer = nn.Linear(5, 3, bias=not norm)
    net = (nn.Sequential(layer, nn.BatchNorm1d(3)) if norm else nn.Sequential(layer)).double()
    layer.weight.requires_grad_(False)
    pruned = pruned_of(net, columns(net, "0.weight", 1, 2), inputs)
    lost = layer.weight[:, 1:3] @ inputs[:, 1:3].mean(0)
    for compensation in (mean, least_squares):
        state = compensated(compensation, pruned)
        assert state["0.weight"].equal(layer.weight * pruned.masks["0.weight"])
        found, wanted = (state["1.running_mean"], -lost) if norm else (state["0.bias"], layer.bias + lost)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    assert all(compensated(obs, pruned)[name].equal(value) for name, value in pruned.state.items())


def test_a_frozen_bias_is_no_intercept_and_leaves_the_mean_to_a_batch_norm() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(50, 4, dtype=torch.float64) + 2
    net = nn.Sequential(nn.Linear(4, 2)).double()
    net[0].bias.requires_grad_(False)
    pruned = pruned_of(net, columns(net, "0.weight", 2, 3), inputs)
    assert mean(pruned) == {}
    weight = compensated(lambda pruned: least_squares(pruned, damping=1e-12), pruned)["0.weight"]
    asked = (inputs @ net[0].weight.T).detach().numpy()  # the bias is there before and after
    fitted = np.linalg.lstsq(inputs[:, :2].numpy(), asked, rcond=None)[0]
    assert np.allclose(weight[:, :2].T, fitted, rtol=0, atol=1e-9)
    net.append(nn.BatchNorm1d(2).double().eval())
    lost = net[0].weight[:, 2:] @ inputs[:, 2:].mean(0)
    torch.testing.assert_close(mean(pruned)["1.running_mean"], -lost, rtol=0, atol=1e-13)


def test_all_names_of_a_frozen_weight_keep_its_values(batch: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    net[2].weight = net[0].weight.requires_grad_(False)
    pruned = pruned_of(net, {"0.weight": torch.eye(3) > 0}, batch)
    state = compensated(lambda pruned: {"2.weight": torch.ones(3, 3)}, pruned)
    assert state["0.weight"].equal(net[0].weight * torch.eye(3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), wide=st.integers(2, 6), outputs=st.integers(1, 3))
def test_a_layer_is_the_closer_the_more_may_move(seed: int, wide: int, outputs: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.rand(40, wide, dtype=torch.float64, generator=rng) + 1
    net = nn.Linear(wide, outputs).double()
    masks = {"weight": torch.rand(outputs, wide, generator=rng) < 0.6}
    pruned = pruned_of(net, masks, inputs)

    def error(compensation: Compensation) -> float:
        return (after(compensation, pruned, inputs) - net(inputs).detach()).square().sum().item()

    exact = error(lambda pruned: least_squares(pruned, damping=1e-10))
    assert exact <= error(mean) + 1e-9
    assert error(mean) <= error(none) + 1e-9
    assert not compensated(obs, pruned)["weight"][~masks["weight"]].any()
