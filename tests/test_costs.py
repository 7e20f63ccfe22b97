"""What a network without some channels costs: counted from shapes, or made where these do not tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lottery.foundations.errors import Refused
from lottery.foundations.files import file_size, tensor_file
from lottery.models.resnet import resnet
from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import proven
from lottery.pruning.channels.removal import shapes, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.training.costs import COSTS, Costs
from tests.channels import forward, masks_of

IMAGES, ROWS = torch.zeros(2, 3, 16, 16), torch.zeros(2, 5, 6)


class Turned(nn.Module):
    """The second layer is called at a place for each channel of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(5, 3), nn.Linear(8, 2)

    def forward(self, rows: Tensor) -> Tensor:
        turned = self.two(self.one(rows).relu().mT)
        found: Tensor = self.three(turned.mT)
        return found


class Multiplied(nn.Module):
    """Channels are in a product that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.two(rows @ rows.mT @ self.one(rows))
        return found


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 7), nn.Linear(7, 2))
    net[4].weight = net[2].weight
    return net


def flat() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(7),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.Linear(5, 2),
    )


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ConvTranspose2d(6, 4, 2), nn.AvgPool2d(15), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


def some_of(coupling: Coupling, seed: int) -> dict[str, list[int]]:
    """Some channels of each group."""
    rng = torch.Generator().manual_seed(seed)
    counts = {group.name: int(torch.randint(1, group.size + 1, (), generator=rng)) for group in coupling.groups}
    return {name: list(range(count)) for name, count in counts.items()}


@pytest.mark.parametrize(
    ("made", "batch", "by_shapes"),
    [
        (lambda: resnet(8, 0.5, [3, 16, 16], 10), IMAGES, {"parameters", "flops", "bytes"}),
        (flat, IMAGES, {"parameters", "flops", "bytes"}),
        (tied, ROWS, {"parameters", "flops", "bytes"}),
        (depthwise, IMAGES, {"parameters", "flops", "bytes"}),
        (Turned, ROWS, {"parameters", "bytes"}),
        (Multiplied, ROWS, {"parameters", "bytes"}),
    ],
    ids=["resnet", "flat", "tied", "depthwise", "turned", "multiplied"],
)
def test_counting_shapes_gives_what_the_smaller_network_costs(
    made: Callable[[], nn.Module], batch: Tensor, by_shapes: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, run = made(), forward(batch)
    coupling = proven(net, coupled(net, run), masks_of(net), run)
    costs = Costs(net, coupling, [(run, 2)])
    for kept in ({}, *(some_of(coupling, seed) for seed in range(3))):
        small = shrunk(net, structure(coupling, kept))
        assert shapes(coupling, kept, costs.whole) == {
            name: list(tensor.shape) for name, tensor in (*small.named_parameters(), *small.named_buffers())
        }
        for budget, count in COSTS.items():
            assert costs.of(budget, kept) == count(small, [(run, 2)]), (budget, kept)
    assert coupling.groups
    for_budgets = []
    monkeypatch.setattr(Costs, "_made", lambda self, budget, kept: for_budgets.append(budget))
    for budget in COSTS:
        costs.of(budget, {})
    assert {*for_budgets} == COSTS.keys() - by_shapes  # for the others no network is made any more


def test_what_can_not_go_is_refused_as_where_networks_are_made() -> None:
    net, run = tied(), forward(ROWS)
    costs = Costs(net, coupled(net, run), [(run, 2)])
    with pytest.raises(Refused, match=r"^channels\.0\.weight: none of 7 channels is kept"):
        costs.of("parameters", {"0.weight": []})


def test_the_length_of_a_file_of_every_type() -> None:
    kinds = [torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.int16]
    kinds += [torch.int8, torch.uint8, torch.bool]
    for count in range(1, 12):  # lengths are rounded, and offsets get longer
        tensors = {f'ä"{i}': torch.zeros([count**2, i], dtype=kind) for i, kind in enumerate(kinds)}
        given = {name: t.shape for name, t in tensors.items()}, {name: t.dtype for name, t in tensors.items()}
        assert file_size(*given, {"a": count}) == len(tensor_file(tensors, {"a": count}))
    with pytest.raises(KeyError):
        file_size({"a": [1]}, {"a": torch.complex64}, {})
