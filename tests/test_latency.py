"""Latency: in which order and under which settings networks are timed, and statistics by hand; no time is tested."""

from __future__ import annotations

from itertools import groupby
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lottery.compress.latency import Interval, Latency, csr, latencies, median, realised
from lottery.compress.points import rows
from lottery.compress.sizes import Sizes
from tests.channels import masked

SEEN: list[tuple[Any, ...]] = []


class Seen(nn.Module):
    """Records under which name and how it is called."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.drop = name, nn.Dropout()

    def forward(self, inputs: Tensor) -> Tensor:
        threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
        SEEN.append((self.name, len(inputs), threads, self.drop.training, inference))
        return inputs


@pytest.fixture
def seen() -> list[tuple[Any, ...]]:
    SEEN.clear()
    return SEEN


def test_networks_take_turns_that_go_forwards_and_backwards(seen: list[tuple[Any, ...]]) -> None:
    found = latencies({name: Seen(name) for name in "abc"}, torch.ones(2, 1), batches=(4,), turns=6, block=0)
    order = [name for name, _ in groupby(name for name, *_ in seen)]
    # tried, counted, and then six turns; the last of a turn is the first of the next
    assert "".join(order) == "abc" + "abc" + "abcbabcbabcba"
    assert [(one.network, one.batch, one.threads, one.calls, len(one.seconds)) for one in found] == [
        (name, 4, 1, 1, 6) for name in "abc"
    ]
    assert all(second > 0 for one in found for second in one.seconds)


def test_networks_evaluate_on_batches_of_each_size_with_the_threads_asked_for(seen: list[tuple[Any, ...]]) -> None:
    net, threads = Seen("net"), torch.get_num_threads()
    net.drop.eval()
    found = latencies({"net": net}, torch.ones(3, 1), batches=(1, 8), threads=2, turns=6, block=0)
    assert [(one.batch, one.threads) for one in found] == [(1, 2), (8, 2)]
    timed = [call[1:] for call in seen if call[2] == 2]
    assert set(timed) == {(1, 2, False, True), (8, 2, False, True)}
    assert len(timed) >= 2 * 6
    assert torch.get_num_threads() == threads
    assert (net.training, net.drop.training) == (True, False)  # as before


def test_a_turn_has_as_many_calls_as_fill_it() -> None:
    (one,) = latencies({"net": Seen("net")}, torch.ones(1, 1), batches=(1,), turns=6, block=1e-3)
    assert one.calls > 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nets": {}}, "nets={}: must name at least one network"),
        ({"batches": (1, 0)}, "batches=0: must be at least 1"),
        ({"threads": 0}, "threads=0: must be at least 1"),
        ({"turns": 5}, "turns=5: must be at least 6"),
        ({"example": torch.ones(())}, "example: must be a batch"),
        ({"nets": {"thin": nn.Linear(3, 1)}}, r"thin: fails on a batch of shape \(1, 1\): mat1"),
    ],
)
def test_what_latencies_refuse(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        latencies(**{"nets": {"net": Seen("net")}, "example": torch.ones(1, 1)} | given)


def test_ranks_of_the_median_are_those_of_tables() -> None:
    """Ranks for 95 % in tables of the sign test: n = 10: 2 and 9; n = 20: 6 and 15; n = 50: 18 and 33."""
    for count, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33)):
        found = median([float(value) for value in range(count, 0, -1)])
        assert found == Interval((count + 1) / 2, low, high)


def test_no_narrower_interval_has_95_per_cent() -> None:
    for count in range(6, 70):
        low = int(median([float(value) for value in range(1, count + 1)]).low)
        outside = [2 * sum(comb(count, k) for k in range(rank)) / 2**count for rank in (low, low + 1)]
        assert outside[0] <= 0.05 < outside[1]


def test_few_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 values: at least 6 are needed"):
        median([1.0] * 5)


def test_the_realised_speedup_is_of_pairs() -> None:
    """A machine that slows down tenfold slows both: each turn has its own ratio."""
    slower = (1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0)
    dense = Latency("dense", 1, 1, 1, tuple(4 * second for second in slower))
    other = Latency("small", 1, 1, 1, tuple(2 * second for second in slower))
    assert realised(dense, other) == Interval(2, 2, 2)
    assert dense.interval == Interval(40, 4, 40)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Latency("b", 2, 1, 1, (1.0,) * 6), "b: was timed at batch=2, a at batch=1"),
        (Latency("b", 1, 2, 1, (1.0,) * 6), "b: was timed at threads=2, a at threads=1"),
        (Latency("b", 1, 1, 1, (1.0,) * 7), "b: has 7 turns and a 6"),
    ],
)
def test_latencies_of_other_runs_are_not_compared(other: Latency, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        realised(Latency("a", 1, 1, 1, (1.0,) * 6), other)


def test_rows_have_what_was_timed_and_the_share_that_arrives() -> None:
    dense, small = Sizes(8, 8, 8, 8, 1, 1, 1, 1, 1, 1), Sizes(8, 2, 8, 2, 1, 1, 1, 1, 1, None)
    timed = [Latency(name, batch, 1, 1, (second,) * 6) for batch in (1, 64) for name, second in SECONDS.items()]
    found = {row["point"]: row for row in rows({"dense": dense, "small": small, "untimed": small}, "dense", timed)}
    assert list(found) == ["dense", "small", "untimed", "csr"]
    assert [found[name]["ms_64"] for name in found] == [8.0, 4.0, None, 16.0]
    assert [found[name]["realised_1"] for name in found] == [1, 2, None, 0.5]
    assert [found[name]["share_1"] for name in found] == [1, 2 / 4, None, None]  # theory: a quarter of multiply-adds
    assert (found["csr"]["parameters"], found["csr"]["speedup"], found["small"]["peak_bytes"]) == (None, None, None)
    assert len({tuple(row) for row in found.values()}) == 1


SECONDS = {"dense": 8e-3, "small": 4e-3, "csr": 16e-3}


class Mixed(nn.Module):
    """A convolution, two linear layers (one without bias) and a subclass of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.flat = nn.Conv2d(1, 2, 3), nn.Flatten()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 12, bias=False)
        self.own = type("Own", (nn.Linear,), {})(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.flat(self.conv(images)).relu()
        return self.own(self.two(self.one(inner).relu()).relu())


def drawn(net: nn.Module, density: float = 0.3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(weight.shape, generator=rng) < density
        for name, weight in net.named_parameters()
        if weight.ndim > 1
    }


def test_csr_weights_give_what_masked_ones_give() -> None:
    net = Mixed()
    linear = {name: mask for name, mask in drawn(net).items() if name in ("one.weight", "two.weight")}
    zeros, images = masked(net, linear), torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in zeros.state_dict().items()}
    twin = csr(zeros)
    assert twin is not None
    torch.testing.assert_close(twin(images), zeros(images), atol=1e-6, rtol=0)
    for name in ("one", "two"):
        held = twin.get_submodule(name).weight
        assert held.layout == torch.sparse_csr
        assert held.values().numel() == linear[f"{name}.weight"].sum()
    assert (type(twin.conv), type(twin.own)) == (nn.Conv2d, type(net.own))
    assert all(torch.equal(tensor, before[name]) for name, tensor in zeros.state_dict().items())


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_csr_takes_inputs_of_any_rank(shape: tuple[int, ...]) -> None:
    net = nn.Linear(6, 4)
    zeros, inputs = masked(net, drawn(net)), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    twin = csr(zeros)
    assert twin is not None
    torch.testing.assert_close(twin(inputs), zeros(inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("names", [(), ("conv.weight",), ("one.weight", "conv.weight"), ("one.weight", "own.weight")])
def test_there_is_no_csr_where_other_layers_have_zeros(names: tuple[str, ...]) -> None:
    net = Mixed()
    masks = {name: mask for name, mask in drawn(net).items() if name in names}
    assert csr(masked(net, masks)) is None


def test_there_is_no_csr_of_a_layer_that_others_hang_something_on() -> None:
    net = Mixed()
    net.one.register_forward_hook(lambda layer, given, output: output + 1)
    assert csr(masked(net, {"one.weight": drawn(net)["one.weight"]})) is None
