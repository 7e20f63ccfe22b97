"""Networks that depend on more than seed and state are refused before training."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lottery.config.check import check
from lottery.data.examples import Data, Examples
from lottery.foundations.errors import Refused
from lottery.rounds.study import Cell


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


class Unseeded(Net):
    """Weights from a generator of its own."""

    draws: Iterator[int] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self[1].bias.fill_(next(self.draws))


class Counting(Net):
    """A step counter that neither state nor checkpoint holds."""

    steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(inputs) / (1 + self.steps)


class Buffered(Net):
    """Training statistics that evaluation reads but the state lacks."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=persistent)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(inputs.detach().mean() + 1, 0.5)
            return super().forward(inputs)
        return super().forward(inputs) + self.mean * torch.arange(10)


class Kept(Buffered):
    """The same statistics in its state."""

    def __init__(self) -> None:
        super().__init__(persistent=True)


class Drawn(Net):
    """Weights and noise from numpy and Python, a fixed draw outside its state, a cache, a counter without
    effect: all are reproducible."""

    def __init__(self) -> None:
        super().__init__()
        self.order, self.called = torch.randperm(64), 0
        self.register_buffer("cache", torch.zeros(()), persistent=False)
        with torch.no_grad():
            self[1].bias.add_(torch.tensor(np.random.randn(10) + random.gauss(0, 1), dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        self.called += 1
        self.cache = inputs.detach().mean()
        return super().forward(inputs.flatten(1)[:, self.order] * np.random.rand()) + random.random() + self.cache


def with_network(cell: Cell, network: Callable[[], nn.Module]) -> Cell:
    return replace(cell, study=replace(cell.study, recipe=replace(cell.study.recipe, network=network)))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Unseeded, r"model: it draws 1\.bias from a source that seed= does not reach; draw from torch, numpy\.random"),
        (Counting, r"model: in training its loss after one step is \S+, and \S+ in a new build with the same state"),
        (Buffered, r"model: in evaluation its loss after one step is .*; register it as a persistent buffer"),
    ],
)
def test_what_neither_seed_nor_state_holds_is_refused(
    cell: Callable[..., Cell], network: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(Refused, match=f"^{said}"):
        check(with_network(cell("scope=everywhere"), network))


@pytest.mark.parametrize("network", [Net, Kept, Drawn])
def test_what_comes_back_is_accepted(cell: Callable[..., Cell], network: Callable[[], nn.Module]) -> None:
    check(with_network(cell("scope=everywhere"), network))


def test_a_loss_that_overflows_is_not_taken_for_a_hidden_state(cell: Callable[..., Cell]) -> None:
    check(with_network(cell("scope=everywhere", "optimizer=sgd", "optimizer.lr=1e30"), Net))


def drawn_data(batch_size: int, val_size: int, test_size: int, shape: Sequence[int], classes: int) -> Data:
    """A data set that is drawn from global generators."""
    inputs = torch.rand(100, *shape) + random.random()
    examples = Examples(inputs, torch.tensor(np.random.randint(0, classes, 100)))
    return Data(examples[:60], examples[60:80], examples[80:], batch_size, shape, classes)


@pytest.mark.slow
def test_data_that_are_drawn_are_the_same_in_every_process(cell: Callable[..., Cell]) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        drawn = cell("data._target_=tests.test_remade.drawn_data", f"seed={seed}")
        found.append(drawn.study.recipe.data.digest)
    assert found[0] == found[1]
