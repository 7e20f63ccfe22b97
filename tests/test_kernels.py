"""Kernels on prepared lists are bit for bit PyTorch's own step, and that step is taken wherever they do not apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from lottery.rounds.study import Cell
from lottery.training import kernels
from lottery.training.fit import fit
from lottery.training.kernels import prepared
from lottery.training.optimizers import adam, adamw, sgd
from lottery.training.phase import Phase

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
MADE: dict[str, Make] = {
    "sgd": partial(sgd, lr=0.1, momentum=0.0),
    "sgd decays": partial(sgd, lr=0.1, momentum=0.0, weight_decay=1e-2),
    "momentum": partial(sgd, lr=0.1),
    "nesterov": partial(sgd, lr=0.1, nesterov=True, weight_decay=1e-2, decay="weights"),
    "dampening": partial(SGD, lr=0.1, momentum=0.8, dampening=0.1, maximize=True, fused=True),
    "adam": partial(adam, lr=1e-2),
    "adam decays": partial(adam, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=1e-2, decay="weights"),
    "adamw": partial(adamw, lr=1e-2, weight_decay=0.1),
    "amsgrad": partial(Adam, lr=1e-2, amsgrad=True, maximize=True, fused=True),
    "decoupled": partial(Adam, lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True, fused=True),
}


class Trained:
    """A network in training; `step_of` says how its optimizer takes a step."""

    def __init__(self, make: Make, step_of: Callable[[Optimizer], Callable[[], object]]) -> None:
        self.net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3), nn.Linear(3, 3))
        rng = torch.Generator().manual_seed(0)
        for parameter in self.net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng)
        self.optimizer, self.step_of = make(self.net.parameters()), step_of
        self.rate = self.optimizer.param_groups[0]["lr"]

    def train(self, first: int, last: int, used: Callable[[int], int] = lambda step: 5) -> None:
        """Trains with a learning rate of its own at each step; of the network's layers the first few are used."""
        for step in range(first, last):
            if step in (first, first + 1, first + 5):  # chunks, the first of which is before there is any state
                update = self.step_of(self.optimizer)
            rng = torch.Generator().manual_seed(step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate / (1 + step % 4)
            for parameter in self.net.parameters():
                parameter.grad = None
            outputs = self.net[: used(step)](torch.randn(6, 5, generator=rng))
            outputs.tanh().square().mean().backward()  # bounded, so that it may be maximised too
            update()

    def tensors(self) -> list[Tensor]:
        state = self.optimizer.state_dict()["state"]
        moments = [value for of in state.values() for _, value in sorted(of.items()) if isinstance(value, Tensor)]
        return [*self.net.state_dict().values(), *moments]

    def go_on_from(self, other: Trained) -> None:
        self.net.load_state_dict(other.net.state_dict())
        self.optimizer.load_state_dict(other.optimizer.state_dict())


def own(optimizer: Optimizer) -> Callable[[], object]:
    return optimizer.step


def equal(one: Trained, other: Trained) -> bool:
    pairs = list(zip(one.tensors(), other.tensors(), strict=True))
    return len(pairs) >= 11 and all(torch.equal(*pair) and pair[0].isfinite().all() for pair in pairs)


@pytest.mark.parametrize("name", MADE)
def test_bit_for_bit_pytorch_s_own_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Trained(MADE[name], prepared), Trained(MADE[name], own)
    theirs.train(0, 30)
    taken = []
    monkeypatch.setattr(type(ours.optimizer), "step", counted(type(ours.optimizer).step, taken))
    ours.train(0, 30)
    assert len(taken) == (0 if name in ("sgd", "sgd decays") else 1)  # the first makes the state
    assert equal(ours, theirs)


def counted(step: Callable[[Optimizer], object], taken: list[object]) -> Callable[[Optimizer], object]:
    def count(optimizer: Optimizer) -> object:
        taken.append(optimizer)
        return step(optimizer)

    return count


@pytest.mark.parametrize("name", ["nesterov", "adam decays", "amsgrad"])
@pytest.mark.parametrize(("before", "after"), [(prepared, own), (own, prepared), (prepared, prepared)])
def test_state_dicts_go_on_either_way(name: str, before: Any, after: Any) -> None:
    whole, begun, resumed = Trained(MADE[name], own), Trained(MADE[name], before), Trained(MADE[name], after)
    whole.train(0, 24)
    begun.train(0, 12)
    resumed.go_on_from(begun)
    resumed.train(12, 24)
    assert equal(resumed, whole)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("used", [lambda step: 5 - step % 2, lambda step: 4 + step // 8, lambda step: 4])
def test_layers_that_are_used_now_and_then(name: str, used: Callable[[int], int]) -> None:
    """The last layer's parameters have no gradients at some steps, or get them late, or never."""
    ours, theirs = Trained(MADE[name], prepared), Trained(MADE[name], own)
    for each in (ours, theirs):
        each.train(0, 1, used)  # the state of the others, before lists are prepared
        each.train(1, 20, used)
    assert equal(ours, theirs)


def test_frozen_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Trained(MADE["sgd decays"], prepared), Trained(MADE["sgd decays"], own)
    for each in (ours, theirs):
        each.net[0].requires_grad_(False)
    theirs.train(0, 10)
    monkeypatch.delattr(SGD, "step")  # it is not taken
    ours.train(0, 10)
    assert equal(ours, theirs)


class Mine(SGD):
    """A subclass, which may do anything."""


def hooked(parameters: Iterable[nn.Parameter], when: str) -> Optimizer:
    optimizer = sgd(parameters, lr=0.1)
    getattr(optimizer, f"register_step_{when}_hook")(lambda *_: None)
    return optimizer


def wrapped(parameters: Iterable[nn.Parameter]) -> Optimizer:
    optimizer = sgd(parameters, lr=0.1)
    optimizer.step = optimizer.step  # as PyTorch's schedulers do
    return optimizer


def scaled(parameters: Iterable[nn.Parameter]) -> Optimizer:
    optimizer: Any = sgd(parameters, lr=0.1)
    optimizer.grad_scale = optimizer.found_inf = None  # as GradScaler does
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        partial(Mine, lr=0.1, momentum=0.9, fused=True),
        partial(hooked, when="pre"),
        partial(hooked, when="post"),
        wrapped,
        scaled,
        partial(sgd, lr=0.1, clip_norm=1.0),
        partial(SGD, lr=0.1),
        partial(SGD, lr=0.1, foreach=True),
        partial(SGD, lr=torch.tensor(0.1), fused=True),
        partial(Adam, lr=0.1, capturable=True, fused=True),
        partial(AdamW, lr=0.1, fused=False),
        partial(torch.optim.RMSprop, lr=0.1),
    ],
)
def test_whatever_else_there_is_takes_its_own_step(make: Make) -> None:
    ours = Trained(make, own)
    ours.train(0, 2)
    assert prepared(ours.optimizer) == ours.optimizer.step


def test_hooks_of_all_optimizers_and_parameters_of_two_kinds() -> None:
    ours = Trained(MADE["adam"], own)
    ours.train(0, 2)
    handle = register_optimizer_step_post_hook(lambda *_: None)
    assert prepared(ours.optimizer) == ours.optimizer.step
    handle.remove()
    assert prepared(ours.optimizer) != ours.optimizer.step
    mixed = SGD([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))], 0.1, fused=True)
    assert prepared(mixed) == mixed.step


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_a_phase_is_that_of_the_optimizer_s_own_step(
    cell: Callable[..., Cell], sparse: bool, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = cell().study.recipe
    rng = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(w.shape, generator=rng) < density for n, w in recipe.prunable(recipe.net).items()}
    names = tuple(masks) if sparse and density < 1 else ()
    phase = Phase(recipe.network().state_dict(), masks, 0, 30, order=0, noise=0, sparse=names)
    ours = fit(recipe, phase)
    monkeypatch.setattr(kernels, "prepared", own)
    theirs = fit(recipe, phase)
    assert ours.rows == theirs.rows
    assert all(torch.equal(ours.state[name], theirs.state[name]) for name in theirs.state)


@pytest.mark.parametrize(
    ("kind", "group", "decoupled"),
    [
        (torch.optim.AdamW, {}, True),  # of PyTorch before 2.7
        (torch.optim.Adam, {}, False),
        (torch.optim.Adam, {"decoupled_weight_decay": True}, True),
    ],
)
def test_groups_of_older_versions_say_nothing_of_decay(
    kind: type[Optimizer], group: dict[str, bool], decoupled: bool
) -> None:
    assert kernels._decoupled(kind, group) is decoupled
