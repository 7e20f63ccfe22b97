"""Masks: which weights are prunable, what is counted, and how masks are stored."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor, nn

from lottery.pruning import masks

TENSORS = arrays(bool, array_shapes(min_dims=1, max_dims=4, max_side=9)).map(torch.from_numpy)


@given(TENSORS)
@settings(deadline=None, derandomize=True, database=None)
def test_unpack_inverts_pack(mask: Tensor) -> None:
    assert torch.equal(masks.unpack(masks.pack(mask), mask.shape), mask)


@given(TENSORS)
@settings(deadline=None, derandomize=True, database=None)
def test_packed_bytes_are_those_of_numpy(mask: Tensor) -> None:
    assert masks.pack(mask).numpy().tobytes() == np.packbits(mask.numpy(), bitorder="little").tobytes()


def test_pack_reads_a_transposed_mask_in_its_own_order() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]]).T
    assert masks.pack(mask).tolist() == [0b001011]
    assert torch.equal(masks.unpack(masks.pack(mask), mask.shape), mask)


class Everything(nn.Module):
    """Layers of all kinds; `tied` shares the weight of `linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        self.up = nn.ConvTranspose1d(2, 2, 3)
        self.embedding = nn.Embedding(4, 5)
        self.linear = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.linear.weight


def test_prunable_are_the_weights_of_linear_and_convolutional_layers() -> None:
    net = Everything()
    found = masks.prunable(net)
    assert list(found) == ["conv.0.weight", "up.weight", "linear.weight"]
    assert found["linear.weight"] is net.linear.weight


def test_a_frozen_weight_is_prunable_like_any_other() -> None:
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    assert list(masks.prunable(net)) == ["0.weight", "1.weight"]


def test_a_network_that_is_one_layer_is_prunable() -> None:
    assert list(masks.prunable(nn.Linear(2, 2))) == ["weight"]


def test_dense_keeps_everything() -> None:
    found = masks.dense({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
    assert {name: mask.tolist() for name, mask in found.items()} == {"a": [[True] * 3] * 2, "b": [True] * 4}
    assert all(mask.dtype == torch.bool for mask in found.values())


def test_density_weighs_layers_by_their_size() -> None:
    found = {"small": torch.tensor([True, False]), "large": torch.tensor([[True] * 3 + [False] * 3])}
    assert masks.kept(found) == 4
    assert masks.density(found) == 4 / 8
    found["large"][0, 1:3] = False
    assert masks.density(found) == 2 / 8  # the mean of the layers' densities would be 1 / 3
    assert masks.layer_densities(found) == {"small": 1 / 2, "large": 1 / 6}


def test_more_kept_weights_than_float32_can_count_are_counted() -> None:
    found = {"a": torch.ones(2**24 + 3, dtype=torch.bool)}
    assert masks.kept(found) == 2**24 + 3


def test_apply_sets_pruned_entries_to_zero_in_place_and_touches_nothing_else() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    tensors = {"weight": weight, "bias": torch.tensor([5.0, 6.0])}
    masks.apply_(tensors, {"weight": torch.tensor([[True, False], [False, True]])})
    assert tensors["weight"] is weight
    assert weight.is_leaf
    assert weight.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    assert tensors["bias"].tolist() == [5.0, 6.0]


def test_shuffled_moves_kept_weights_within_their_layer_only() -> None:
    before = {
        "a": torch.arange(200).view(20, 10) < 37,
        "b": torch.arange(300) < 1,
        "c": torch.ones(7, dtype=torch.bool),
    }
    after = masks.shuffled(before, torch.Generator().manual_seed(0))
    assert {n: int(m.sum()) for n, m in after.items()} == {"a": 37, "b": 1, "c": 7}
    assert {n: m.shape for n, m in after.items()} == {n: m.shape for n, m in before.items()}
    assert not torch.equal(after["a"], before["a"])
    assert before["a"].flatten().nonzero().flatten().tolist() == list(range(37)), "the parent's masks were moved"


def test_shuffled_is_decided_by_its_generator_alone() -> None:
    before = {"a": torch.arange(200) < 50, "b": torch.arange(200) < 50}
    torch.manual_seed(1)
    first = masks.shuffled(before, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    again, other = (masks.shuffled(before, torch.Generator().manual_seed(seed)) for seed in (7, 8))
    assert all(torch.equal(first[name], again[name]) for name in before)
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(first["a"], first["b"]), "layers are shuffled with one and the same permutation"


def test_shuffled_visits_all_places_equally() -> None:
    rng, before = torch.Generator().manual_seed(0), {"a": torch.arange(8) < 2}
    hits = sum(masks.shuffled(before, rng)["a"].double() for _ in range(2000))
    # each place is kept in a quarter of the draws; 7 degrees of freedom, since two places are kept in each
    assert float(((hits - 500) ** 2).sum() / (2000 * 1 / 4 * 3 / 4 * 8 / 7)) < 24.3  # p = 0.001
