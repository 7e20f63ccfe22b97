"""What an operating point costs: counts by hand, bytes against files really written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lottery.compress.contents import eight_bits, kept_values, restore_
from lottery.compress.export import export_point
from lottery.compress.memory import peak_bytes
from lottery.compress.points import rows, shown
from lottery.compress.sizes import Sizes, sizes
from lottery.foundations.files import write_tensors
from lottery.pruning.masks import Masks
from lottery.training.state_files import state_once
from tests.channels import masked

IMAGES = torch.arange(32.0).view(2, 1, 4, 4) / 32


def small() -> nn.Sequential:
    """A convolution of 2 x 1 x 3 x 3 weights on 4 x 4 images, then a linear layer of 3 x 32; no parameter is zero."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.arange(1, weight.numel() + 1).view_as(weight) / weight.numel())
    return net


def a_third_and_a_quarter() -> Masks:
    """Masks that keep 6 weights of the 18 of the convolution, and 24 of the 96 of the linear layer."""
    return {
        "0.weight": (torch.arange(18) % 3 == 0).view(2, 1, 3, 3),
        "3.weight": (torch.arange(96) % 4 == 1).view(3, 32),
    }


def test_counts_of_a_dense_network() -> None:
    found = sizes(small(), IMAGES)
    assert (found.parameters, found.nonzeros) == (18 + 2 + 96 + 3, 119)
    assert found.multiply_adds == found.kept_multiply_adds == 2 * 16 * 9 + 96
    assert (found.compression(), found.speedup(), found.batch) == (1, 1, 2)


def test_nonzeros_are_counted_in_the_tensors() -> None:
    net = small()
    with torch.no_grad():
        net[0].weight.view(-1)[3] = 0  # kept
        net[0].weight.view(-1)[4] = 0  # pruned
        net[3].bias[0] = 0
    found = sizes(masked(net, a_third_and_a_quarter()), IMAGES)
    assert (found.parameters, found.nonzeros) == (119, (6 - 1) + 2 + 24 + (3 - 1))
    assert (found.multiply_adds, found.kept_multiply_adds) == (384, 16 * 5 + 24)
    assert found.compression() == 119 / 33
    assert found.speedup() == 384 / 104
    unmasked = sizes(net, IMAGES)
    assert (unmasked.nonzeros, unmasked.kept_multiply_adds) == (119 - 3, 16 * 16 + 96)


def test_ratios_of_a_smaller_network_are_to_the_one_it_was_made_of() -> None:
    dense = sizes(small(), IMAGES)
    shrunk = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(16, 3, bias=False))
    found = sizes(shrunk, IMAGES)
    assert (found.parameters, found.multiply_adds) == (9 + 48, 144 + 48)
    assert found.compression(dense) == 119 / 57
    assert found.speedup(dense) == 2


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        (nn.Conv2d(4, 4, 3, groups=2, stride=2), (4, 5, 5), 4 * 2 * 2 * (2 * 9)),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 3), 2 * 3 * 3 * (3 * 4)),
        (nn.Conv1d(3, 5, 2), (3, 6), 5 * 5 * (3 * 2)),
        (nn.Linear(4, 3), (7, 4), 7 * 12),  # called at seven places of each example
    ],
)
def test_multiply_adds_of_an_example(layer: nn.Module, shape: tuple[int, ...], products: int) -> None:
    assert sizes(layer, torch.ones(5, *shape)).multiply_adds == products


def test_a_shared_layer_is_stored_once_and_runs_twice(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    found = sizes(net, torch.ones(1, 4))
    assert (found.parameters, found.multiply_adds) == (20, 32)
    assert state_once(net).keys() == {"0.weight", "0.bias"}
    fresh = nn.Linear(4, 4)
    twin = restore_(nn.Sequential(fresh, nn.ReLU(), fresh), state_once(net), "here")
    assert torch.equal(twin[2].weight, layer.weight)


def test_bytes_are_those_of_files_really_written(tmp_path: Path) -> None:
    net, masks = small(), a_third_and_a_quarter()
    found = sizes(masked(net, masks), IMAGES)
    for name, mask in masks.items():
        net.get_parameter(name).data *= mask
    written = export_point(tmp_path / "point", net, IMAGES, {"any": ["structure", 1]}, programs=())
    dense = tmp_path / "point" / "model.safetensors"
    assert found.bytes == dense.stat().st_size == written.files["model.safetensors"]
    assert payload(dense) == 4 * 119
    state, info = state_once(net), {"structure": "0" * 64}
    write_tensors(tmp_path / "masked", kept_values(state, masks), info)
    assert found.masked_bytes == (tmp_path / "masked").stat().st_size
    assert payload(tmp_path / "masked") == 4 * (6 + 2 + 24 + 3) + 3 + 12  # 18 and 96 bits
    write_tensors(tmp_path / "int8", eight_bits(net), info)
    assert found.int8_bytes == (tmp_path / "int8").stat().st_size
    assert payload(tmp_path / "int8") == (18 + 96) + 4 * (2 + 3) + 4 * (2 + 3)  # weights, scales, biases


def payload(path: Path) -> int:
    """Bytes of tensors in a safetensors file: what follows its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_gzip_packs_the_masked_file(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[bytes] = []
    usual = gzip.compress
    monkeypatch.setattr("gzip.compress", lambda *given, **more: packed.append(usual(*given, **more)) or packed[-1])
    found = sizes(masked(small(), a_third_and_a_quarter()), IMAGES)
    assert [len(each) for each in packed] == [found.gzip_bytes]
    content = gzip.decompress(packed[0])
    assert len(content) == found.masked_bytes
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["0.weight"]["shape"] == [6]
    assert header["mask.3.weight"]["shape"] == [12]


@pytest.mark.parametrize(
    ("layer", "axis"), [(nn.Linear(6, 4), 0), (nn.Conv2d(3, 4, 2), 0), (nn.ConvTranspose2d(3, 4, 2), 1)]
)
def test_eight_bits_are_off_by_half_a_step_of_each_output(layer: nn.Module, axis: int) -> None:
    weight = layer.weight.data
    weight.select(axis, 2).zero_()  # an output whose weights are all pruned
    found = eight_bits(layer)
    integers, scale = found["weight"].movedim(axis, 0), found["weight.scale"]
    assert (integers.dtype, scale.shape) == (torch.int8, (4,))
    largest = integers.flatten(1).int().abs().amax(1)
    assert largest.tolist() == [127, 127, 0, 127]
    step = scale.view(-1, *[1] * (weight.ndim - 1))
    assert ((integers * step - weight.movedim(axis, 0)).abs() <= step * 0.5001).all()
    assert torch.equal(found["bias"], layer.bias)


def test_peak_memory_by_hand() -> None:
    net = nn.Sequential(nn.Linear(100, 200), nn.ReLU(inplace=True), nn.Linear(200, 50), nn.ReLU(), nn.Linear(50, 10))
    weights = 4 * (200 * 101 + 50 * 201 + 10 * 51)
    # largest while the second layer runs: its input and its output; the input of the network is there throughout
    assert peak_bytes(net, torch.zeros(8, 100)) == weights + 4 * 8 * (100 + 200 + 50)
    assert sizes(net, torch.zeros(8, 100)).peak_bytes == weights + 4 * 8 * 350
    shared = nn.Linear(10, 10, bias=False)  # one weight, a buffer; the inputs and two activations
    shared.register_buffer("table", torch.zeros(7))
    assert peak_bytes(nn.Sequential(shared, shared), torch.zeros(3, 10)) == 400 + 28 + 3 * 120


def test_peak_memory_is_not_measured_on_another_device() -> None:
    assert peak_bytes(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2, device="meta")) is None


def test_a_network_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    net[2].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sizes(net, torch.randn(8, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == [True] * 4
    assert (net[0].weight.requires_grad, net[2].weight.requires_grad) == (True, False)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (torch.tensor(1.0), r"example: must be a batch, .* not a tensor of shape \(\)"),
        (torch.ones(0, 4), r"example: must be a batch, .* not a tensor of shape \(0, 4\)"),
        ([1.0], "example: must be a batch, .* not list"),
        ((torch.ones(2, 4), torch.ones(3)), r"example: must have as many examples .* \(2, 4\) and \(3,\)"),
        (torch.ones(2, 3), r"example: the network fails on a batch of shape \(2, 3\): mat1"),
    ],
)
def test_what_sizes_refuse(example: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sizes(nn.Linear(4, 2), example)


def test_no_ratio_to_nothing() -> None:
    net = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(net.weight)
    found = sizes(net, torch.ones(1, 4))
    with pytest.raises(ValueError, match="no nonzero parameter left"):
        found.compression()
    with pytest.raises(ValueError, match="no multiply-add left"):
        found.speedup()


def test_a_state_that_no_file_can_hold() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    with pytest.raises(ValueError, match="the network's state holds _extra_state, which is no dense tensor"):
        sizes(Extra(4, 2), torch.ones(1, 4))


def test_rows_of_points() -> None:
    dense, half = sizes(small(), IMAGES), sizes(masked(small(), a_third_and_a_quarter()), IMAGES)
    found = rows({"dense": dense, "half": half}, "dense", scores={"half": {"accuracy": 0.5}})
    assert [row["point"] for row in found] == ["dense", "half"]
    assert [row["accuracy"] for row in found] == [None, 0.5]
    assert [row["compression"] for row in found] == [1, 119 / 35]
    assert [row["speedup"] for row in found] == [1, 384 / (16 * 6 + 24)]
    assert [row["masked_bytes"] for row in found] == [dense.bytes, half.masked_bytes]
    assert list(found[0]) == list(found[1])
    lines = {line[0]: line[1:] for line in shown(found)}
    assert lines[""] == ["dense", "half"]
    assert lines["accuracy"] == ["not measured", "0.5"]
    assert lines["theoretical speedup"] == ["1", "3.2"]
    assert len(lines) == len(found[0])


def test_rows_of_unknown_points() -> None:
    one = Sizes(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="dense=all: must be one of a, b"):
        rows({"a": one, "b": one}, "all")
    with pytest.raises(ValueError, match="dense=all: must be one of the points, of which there are none"):
        rows({}, "all")
    with pytest.raises(ValueError, match="scores of c: must be of one of a"):
        rows({"a": one}, "a", scores={"c": {"accuracy": 1.0}})
