"""Optimizers: bit for bit PyTorch's, with what decays and what is clipped worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lottery.config.check import check
from lottery.foundations.errors import Refused
from lottery.rounds.study import Cell
from lottery.training.optimizers import adam, adamw, sgd

Build = Callable[[Iterable[nn.Parameter]], Optimizer]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    return nn.Sequential(*layers)


def after(build: Build, steps: int = 5) -> list[Tensor]:
    """All parameters after some steps."""
    net, stream = network(), torch.Generator().manual_seed(1)
    optimizer = build(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 2, 4, 4, generator=stream)).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (sgd, torch.optim.SGD, {"momentum": 0.9}),
        (sgd, torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
        (sgd, torch.optim.SGD, {"momentum": 0.0}),
        (adam, torch.optim.Adam, {}),
        (adam, torch.optim.Adam, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
        (adamw, torch.optim.AdamW, {}),
        (adamw, torch.optim.AdamW, {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ],
)
def test_steps_are_pytorchs_to_the_last_bit(ours: Any, theirs: Any, settings: dict[str, Any], fused: bool) -> None:
    def build(factory: Any) -> Build:
        return lambda parameters: factory(parameters, lr=0.01, fused=fused, **settings)

    assert same(after(build(ours)), after(build(theirs)))


def test_defaults_are_momentum_for_sgd_and_fused_kernels() -> None:
    for build in (sgd, adam, adamw):
        optimizer = build(network().parameters(), lr=0.5)
        assert [group["fused"] for group in optimizer.param_groups] == [True]
        assert not optimizer._optimizer_step_pre_hooks
    assert sgd(network().parameters(), lr=0.5).param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("build", [sgd, adam, adamw])
def test_weights_alone_decay_where_that_is_asked_for(build: Any) -> None:
    net = network()
    decaying, others = build(net.parameters(), lr=0.1, weight_decay=0.5, decay="weights").param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert decaying["lr"] == others["lr"] == 0.1
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert [names[id(p)] for p in decaying["params"]] == ["0.weight", "4.weight"]
    assert [names[id(p)] for p in others["params"]] == ["0.bias", "1.weight", "1.bias", "4.bias"]
    [everything] = build(net.parameters(), lr=0.1, weight_decay=0.5).param_groups
    assert [names[id(p)] for p in everything["params"]] == list(dict(net.named_parameters()))


@pytest.mark.parametrize(("decay", "biases"), [("all", 1 - 0.1 * 0.5), ("weights", 1.0)])
def test_decay_without_a_gradient_shrinks_what_decays_and_nothing_else(decay: str, biases: float) -> None:
    net = network()
    for parameter in net.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    sgd(net.parameters(), lr=0.1, weight_decay=0.5, decay=decay).step()
    for parameter in net.parameters():
        expected = 1 - 0.1 * 0.5 if parameter.ndim > 1 else biases
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, expected))


def test_a_network_of_weights_or_of_biases_alone_has_one_group() -> None:
    weights, biases = nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)
    assert len(sgd(weights.parameters(), lr=0.1, decay="weights").param_groups) == 1
    assert len(sgd(biases.parameters(), lr=0.1, decay="weights").param_groups) == 1


def pair(*gradients: list[float]) -> list[nn.Parameter]:
    """Parameters at zero with these gradients."""
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


def test_the_norm_of_all_gradients_together_is_clipped() -> None:
    parameters = pair([2.0, 3.0], [6.0])  # of norm 7
    optimizer = sgd(parameters, lr=1.0, momentum=0.0, clip_norm=3.5)
    optimizer.step()
    torch.testing.assert_close(torch.cat(list(parameters)).detach(), -torch.tensor([1.0, 1.5, 3.0]))


def test_it_is_clipped_over_both_groups_and_with_every_step() -> None:
    matrix, bias = nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1))
    optimizer = sgd([matrix, bias], lr=1.0, momentum=0.0, decay="weights", clip_norm=1.0)
    for step in (1, 2):
        matrix.grad, bias.grad = torch.full((1, 1), 30.0), torch.full((1,), 40.0)
        optimizer.step()
        assert matrix.item() == pytest.approx(-0.6 * step)
        assert bias.item() == pytest.approx(-0.8 * step)


@pytest.mark.parametrize("build", [sgd, adam, adamw])
def test_a_norm_below_the_limit_changes_nothing(build: Any) -> None:
    plain = after(lambda parameters: build(parameters, lr=0.01, fused=False))
    assert same(after(lambda parameters: build(parameters, lr=0.01, clip_norm=1e9)), plain)
    assert not same(after(lambda parameters: build(parameters, lr=0.01, clip_norm=1e-9)), plain)


def test_parameters_that_took_others_places_are_clipped() -> None:
    before, now = pair([3.0, 4.0]), pair([30.0, 40.0])
    optimizer = sgd(before, lr=1.0, momentum=0.0, clip_norm=1.0)
    optimizer.param_groups[0]["params"] = now
    optimizer.step()
    torch.testing.assert_close(now[0].detach(), -torch.tensor([0.6, 0.8]))
    assert before[0].grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("build", [sgd, adam, adamw])
def test_scaled_gradients_are_clipped_as_if_they_were_not_scaled(build: Any) -> None:
    def stepped(scale: float) -> Tensor:
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer, scaler = build([weight], lr=0.5, clip_norm=1.0), torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        return weight.detach()

    torch.testing.assert_close(stepped(1024.0), stepped(1.0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"decay": "some"}, "decay=some: must be all or weights"),
        ({"clip_norm": 0}, "clip_norm=0: must be above 0"),
        ({"clip_norm": -1.5}, "clip_norm=-1.5: must be above 0"),
        ({"clip_norm": float("nan")}, "clip_norm=nan: must be above 0"),
    ],
)
@pytest.mark.parametrize("build", [sgd, adam, adamw])
def test_refuses_in_one_sentence(build: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        build(network().parameters(), lr=0.1, **settings)
    assert str(error.value) == sentence


def test_adam_wants_two_betas() -> None:
    for build in (adam, adamw):
        with pytest.raises(ValueError, match=r"betas=\[0.9\]: must be two numbers"):
            build(network().parameters(), lr=0.1, betas=[0.9])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_study_uses_them_and_names_the_key_that_is_wrong(name: str, cell: Callable[..., Cell]) -> None:
    good = cell(f"optimizer={name}", "optimizer.decay=weights", "optimizer.clip_norm=1", "optimizer.weight_decay=0.1")
    check(good)
    optimizer = good.study.recipe.optimizer(network().parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    with pytest.raises(Refused, match=r"^optimizer.clip_norm=-1: must be above 0"):
        check(cell(f"optimizer={name}", "optimizer.clip_norm=-1"))
