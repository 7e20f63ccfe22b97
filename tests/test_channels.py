"""Predefined channel pruning: which filters a narrow network takes from a wide one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.liu_2019.channels import narrowed, streams_of, strongest
from lottery.models.resnet import resnet
from lottery.training.states import state_of

SHAPE = (1, 16, 16)


def network(width: float) -> torch.nn.Module:
    torch.manual_seed(int(100 * width))
    net = resnet(8, width, SHAPE, 10).eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):  # as after some training
            for tensor in (module.weight, module.bias, module.running_mean):
                assert tensor is not None
                torch.nn.init.normal_(tensor)
    return net


def test_of_all_channels_it_is_the_same_network() -> None:
    wide, inputs = network(0.5), torch.randn(3, *SHAPE)
    thin = network(0.5)
    thin.load_state_dict(narrowed(wide, thin))
    assert torch.equal(thin(inputs), wide(inputs))


@pytest.mark.parametrize("part", [0.25, 0.35])
def test_channels_without_filters_are_those_that_go(part: float) -> None:
    """The narrow network computes the same as the wide one if the removed channels were zero."""
    wide, thin, inputs = network(0.5), network(part), torch.randn(3, *SHAPE)
    state, like = state_of(wide), thin.state_dict()
    for name, (writers, _) in streams_of(state).items():
        if not writers or state[name].ndim == 0:
            continue
        count = len(state[name])
        dead = torch.randperm(count, generator=torch.Generator().manual_seed(len(writers[0])))[like[name].shape[0] :]
        if not name.endswith("running_var"):
            state[name][dead] = 0  # filters, and what BatchNorm makes of them
    wide.load_state_dict(state)
    thin.load_state_dict(narrowed(wide, thin))
    torch.testing.assert_close(thin(inputs), wide(inputs))
    assert sum(tensor.numel() for tensor in thin.parameters()) < sum(tensor.numel() for tensor in wide.parameters())


def test_norms_of_all_that_write_a_channel_are_added() -> None:
    filters = {"a": torch.tensor([[3.0], [0.0], [-2.0]]), "b": torch.tensor([[0.0], [4.0], [2.5]])}
    assert strongest(filters, ("a",), 2).tolist() == [0, 2]
    assert strongest(filters, ("a", "b"), 2).tolist() == [1, 2]  # 3, 4, 4.5
