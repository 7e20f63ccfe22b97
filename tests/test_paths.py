"""Paths from input to output: by enumeration, through skip connections and normalisation."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lottery.foundations.digests import digest
from lottery.models.resnet import resnet
from lottery.models.vgg import vgg
from lottery.pruning.masks import Masks, dense, prunable
from lottery.pruning.paths import connected_paths, layer_death
from lottery.training.states import state_of


def drawn(net: nn.Module, density: float, seed: int = 0) -> Masks:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=rng) < density for name, weight in prunable(net).items()}


def enumerated(*layers: Tensor) -> int:
    """Sequences of units, one of each layer, of which all successive ones are joined."""
    sizes = [layers[0].shape[1], *(len(layer) for layer in layers)]
    return sum(
        all(layer[after, before] for layer, before, after in zip(layers, path, path[1:], strict=False))
        for path in product(*map(range, sizes))
    )


@pytest.mark.parametrize("seed", range(5))
def test_paths_of_a_fully_connected_net_are_counted_one_by_one(seed: int) -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 3), nn.LayerNorm(3), nn.GELU(),
        nn.Dropout(0.9), nn.Linear(3, 2),
    )  # fmt: skip
    masks = drawn(net, 0.6, seed)
    expected = enumerated(*masks.values())
    assert connected_paths(net, masks, torch.randn(7, 4)) == expected
    assert expected > 0


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.relu = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.first(inputs)))
        return self.last(hidden + self.inner(hidden))


def test_a_skip_connection_is_a_path_of_its_own() -> None:
    net = Skip()
    masks = drawn(net, 0.5)
    first, inner, last = masks.values()
    around = enumerated(first, last)
    assert connected_paths(net, masks, torch.randn(2, 3)) == enumerated(first, inner, last) + around
    masks["inner.weight"] = torch.zeros(4, 4, dtype=torch.bool)
    assert connected_paths(net, masks, torch.randn(2, 3)) == around > 0
    assert layer_death(masks) == ["inner.weight"]


class Attending(nn.Module):
    """Self-attention, and nothing beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True, add_bias_kv=True)

    def forward(self, inputs: Tensor) -> Tensor:
        attended: Tensor = self.attention(inputs, inputs, inputs)[0]
        return attended


def test_no_bias_of_attention_is_a_path() -> None:
    """Two tokens, of keys (2, 2) that have the product 8 / sqrt(2) with queries (2, 2), and a key and value of 0."""
    net = Attending()
    assert {name for name, _ in net.named_parameters() if "bias" in name} == {
        *("attention.in_proj_bias", "attention.bias_k", "attention.bias_v", "attention.out_proj.bias")
    }
    masks = dense({name: weight for name, weight in net.named_parameters() if "proj" in name and weight.ndim > 1})
    inputs = torch.zeros(1, 2, 2)
    inward = 2 * math.exp(32**0.5) / (2 * math.exp(32**0.5) + 1)
    # two tokens with two outputs each, to which four ways lead
    assert connected_paths(net, masks, inputs) == pytest.approx(2 * 2 * 4 * inward, rel=1e-12)
    masks["attention.in_proj_weight"] = torch.zeros(6, 2, dtype=torch.bool)
    assert connected_paths(net, masks, inputs) == 0
    assert layer_death(masks) == ["attention.in_proj_weight"]


def test_no_bias_of_a_recurrent_layer_is_a_path() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(2, 3, batch_first=True, bidirectional=True)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs)[0]

    net = Last()
    dead = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in net.named_parameters() if "weight" in n}
    assert connected_paths(net, dead, torch.zeros(1, 4, 2)) == 0


def test_paths_lead_through_activations_that_are_called_by_keyword() -> None:
    class ByKeyword(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            for layer in self:
                inputs = layer(input=inputs)
            return inputs

    net = ByKeyword(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.GELU(), nn.Linear(2, 2))
    masks = drawn(net, 0.7)
    assert connected_paths(net, masks, torch.zeros(1, 3)) == enumerated(*masks.values()) > 0


def test_paths_of_a_convolution_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 1, 2), nn.Flatten())
    masks = dense(prunable(net))
    assert (
        connected_paths(net, masks, torch.zeros(1, 1, 3, 3)) == 4 * 2 * 4
    )  # one output, two channels, 4 x 4 positions
    masks["0.weight"][0] = False
    masks["2.weight"][0, 1, 0] = False
    assert connected_paths(net, masks, torch.zeros(1, 1, 3, 3)) == 2 * 4
    masks["2.weight"][0, 1] = False
    assert connected_paths(net, masks, torch.zeros(1, 1, 3, 3)) == 0  # every layer lives, and no path does
    assert layer_death(masks) == []


def test_a_residual_network_lives_without_its_blocks() -> None:
    net = resnet(8, 0.25, (1, 8, 8), 3)
    masks = dense(prunable(net))
    whole = connected_paths(net, masks, torch.zeros(2, 1, 8, 8))
    for name in masks:
        if "conv2" in name:
            masks[name] = torch.zeros_like(masks[name])
    through = connected_paths(net, masks, torch.zeros(2, 1, 8, 8))
    assert 0 < through < whole
    assert len(layer_death(masks)) == 3
    masks["stage2.0.shortcut.0.weight"] = torch.zeros_like(masks["stage2.0.shortcut.0.weight"])
    assert connected_paths(net, masks, torch.zeros(2, 1, 8, 8)) == 0


def test_the_network_stays_as_it_is_bit_for_bit() -> None:
    net = vgg(11, (3, 16, 16), 5).train()
    net[3].eval()
    net(torch.randn(4, 3, 16, 16))
    before, modes = digest(state_of(net)), [layer.training for layer in net.modules()]
    assert connected_paths(net, drawn(net, 0.1), torch.randn(4, 3, 16, 16)) > 0
    assert digest(state_of(net)) == before
    assert [layer.training for layer in net.modules()] == modes
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in net.parameters())

    class Two(nn.Linear):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(inputs), inputs

    two = Two(3, 2).train()
    with pytest.raises(ValueError, match="must give one tensor, not a tuple"):
        connected_paths(two, dense(prunable(two)), torch.zeros(1, 3))
    assert two.training


def test_layers_without_weights_can_not_die() -> None:
    assert layer_death({"empty": torch.zeros(0, 3, dtype=torch.bool), "dead": torch.zeros(1, dtype=torch.bool)}) == [
        "dead"
    ]
