"""Holding: pruned weights stay zero between optimizer steps, even if masks change during a phase."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from lottery.training.holding import Holding
from lottery.training.optimizers import sgd
from lottery.training.sparse import reads_across

FIRST = {"0.weight": torch.tensor([[True, False, True]])}
SECOND = {"0.weight": torch.tensor([[False, True, True]])}


def linear() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 2.0, 4.0]])
    return net


def step(net: nn.Sequential, optimizer: Optimizer, holding: Holding) -> list[float]:
    """The weights after a step in which the gradient of each is 1."""
    optimizer.zero_grad()
    net(torch.ones(1, 3)).sum().backward()
    holding.mask_gradients()
    optimizer.step()
    holding.mask_weights()
    return net[0].weight[0].tolist()


def test_masks_that_change_between_steps_hold_from_then_on() -> None:
    net = linear()
    optimizer = SGD(net.parameters(), lr=0.25)
    holding = Holding(net, FIRST, reads_across(optimizer))
    assert net[0].weight[0].tolist() == [1.0, 0.0, 4.0]
    assert step(net, optimizer, holding) == [0.75, 0.0, 3.75]
    holding.hold(SECOND)
    assert holding.masks is SECOND
    assert net[0].weight[0].tolist() == [0.0, 0.0, 3.75]  # what was grown begins at zero
    assert step(net, optimizer, holding) == [0.0, -0.25, 3.5]
    holding.hold({"0.weight": torch.ones(1, 3, dtype=torch.bool)})
    assert step(net, optimizer, holding) == [-0.25, -0.5, 3.25]


@pytest.mark.parametrize(("optimizer", "seen"), [(SGD, 1.0), (partial(sgd, clip_norm=1e9), 0.0)])
def test_an_optimizer_that_clips_sees_no_gradient_of_pruned_weights(optimizer: type[SGD], seen: float) -> None:
    net = linear()
    working = optimizer(net.parameters(), lr=0.25)
    step(net, working, Holding(net, FIRST, reads_across(working)))
    assert net[0].weight.grad is not None
    assert net[0].weight.grad[0, 1] == seen


def test_what_sparse_layers_hold_is_left_alone() -> None:
    net = linear()
    optimizer = SGD(net.parameters(), lr=0.25)
    holding = Holding(net, FIRST, reads_across(optimizer), elsewhere=["0.weight"])
    assert step(net, optimizer, holding) == [0.75, 1.75, 3.75]
    assert holding.masks is FIRST
