"""The ranks of channels by criteria and by an oracle: exact numbers on little networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from experiments.molchanov_2016.ranks import CRITERIA, channels_of, compared, oracle, spearman
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.contracts import score
from lottery.pruning.criteria import oracle as by_layer
from tests.evidence import evidence_of, linear


def test_spearman_by_hand() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)) of ranks (1 2 3 4 5) and (2 1 4 3 5): 1 - 24 / 120."""
    assert spearman(torch.arange(5.0), torch.tensor([0.2, 0.1, 7.0, 6.0, 9.0])) == pytest.approx(0.8)
    assert spearman(torch.arange(3.0), torch.tensor([9.0, 8.0, -1.0])) == -1
    # ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): products 2.25 twice, lengths sqrt(4.5) and sqrt(5)
    assert spearman(torch.tensor([0.0, 4.0, 4.0, 5.0]), torch.arange(4.0)) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman(torch.ones(3), torch.arange(3.0)) == 0


def test_a_mean_over_layers_and_one_correlation_over_all() -> None:
    changes = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    raw = {"a": torch.tensor([10.0, 20.0]), "b": torch.tensor([2.0, 1.0])}
    normalised = {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([0.8, 0.6])}
    # ranks (1 2 3 4) with (3 4 2 1): sum d^2 = 4 + 4 + 1 + 9; with (1 2 4 3): 2
    assert compared(raw, changes) == {"each_layer": 0, "all_layers": pytest.approx(-0.8)}
    assert compared(normalised, changes) == {"each_layer": 0, "all_layers": pytest.approx(0.8)}


def test_the_oracle_removes_a_channel_at_a_time() -> None:
    """Hidden (1, 2, 3) read by (5, -1, 0.5): 4.5, and 4.5 less 5, -2 and 1.5 without one of them."""
    net = nn.Sequential(linear([1.0], [2.0], [3.0]), linear([5.0, -1.0, 0.5]))
    inputs = torch.ones(1, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = oracle(net, coupled(net, lambda net: net(inputs)), lambda: float(net(inputs)))
    assert {name: changes.tolist() for name, changes in found.items()} == {"0.weight": [5, 2, 1.5]}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Added(nn.Module):
    """Two layers that write to the same channels: (1, 2) and (10, 20), read by (3, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = linear([1.0], [2.0]), linear([10.0], [20.0]), linear([3.0, 1.0])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.one(inputs) + self.two(inputs))


def test_what_is_added_goes_together() -> None:
    net, inputs = Added(), torch.ones(1, 1)
    found = oracle(net, coupled(net, lambda net: net(inputs)), lambda: float(net(inputs)))
    assert {name: changes.tolist() for name, changes in found.items()} == {"one.weight": [33, 22]}
    apart = score(by_layer, evidence_of(net, [(inputs, inputs)], lambda outputs, _: outputs.sum()))
    assert [apart[name].flatten().tolist() for name in ("one.weight", "two.weight")] == [[3, 2], [30, 20]]


def test_without_added_maps_the_criterion_is_the_oracle() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).eval()
    batch = torch.randn(6, 1, 6, 6), torch.randint(3, (6,))
    evidence, coupling = evidence_of(net, [batch]), coupled(net, lambda net: net(batch[0]))
    found = oracle(net, coupling, lambda: float(evidence.loss(batch)))
    assert set(found) == {"0.weight", "3.weight"}
    for name, changes in channels_of(by_layer, evidence, coupling).items():
        assert found[name].tolist() == pytest.approx(changes.tolist(), abs=1e-6)


def test_every_criterion_scores_every_channel() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    batch = torch.randn(6, 3), torch.randint(2, (6,))
    evidence, coupling = evidence_of(net, [batch]), coupled(net, lambda net: net(batch[0]))
    for criterion in CRITERIA.values():
        assert [len(each) for each in channels_of(criterion, evidence, coupling).values()] == [4]
