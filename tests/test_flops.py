"""FLOPs: what is counted against sums done by hand, alone and along the chains of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.config.nodes import make
from lottery.pruning.masks import dense, prunable
from lottery.pruning.prunable import Prunable
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.training.flops import Flops, by_weight, of_example
from lottery.training.modules import Classifier
from tests.conftest import TINY
from tests.few import few


def counted(net: nn.Module, *shape: int, examples: int = 4) -> dict[str, float]:
    inputs = torch.randn(examples, *shape, generator=torch.Generator().manual_seed(0))
    module = Classifier(net, classes=3)
    return by_weight(
        net, lambda: module.loss(module(inputs), torch.arange(examples) % 3).backward(), Prunable(), examples
    )


def by_hand(net: nn.Module, *shape: int) -> dict[str, float]:
    """2 FLOPs for each product of an output with its weights; forward, weights' gradient, inputs' where wanted."""
    found: dict[str, float] = {}
    names = {id(weight): name for name, weight in prunable(net).items()}

    def look(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.weight
        passes = 3 if given[0].requires_grad else 2
        name = names[id(weight)]
        found[name] = found.get(name, 0) + 2 * output[0].numel() * weight[0].numel() * passes

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    net.train()(torch.randn(2, *shape))
    for hook in hooks:
        hook.remove()
    return found


def test_an_mlp() -> None:
    found = counted(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), 6)
    assert found["0.weight"] == 2 * 72 * 2  # no gradient of the inputs
    assert found["2.weight"] == 2 * 36 * 3
    assert found[""] == 504


class ByKeyword(nn.Sequential):
    """Calls its layers by keyword."""

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self:
            inputs = layer(input=inputs)
        return inputs


def test_layers_that_are_called_by_keyword_are_counted_alike() -> None:
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    assert counted(ByKeyword(*layers), 1, 6, 6) == counted(nn.Sequential(*layers), 1, 6, 6)


def test_frozen_layers_cost_no_gradient_of_their_weights() -> None:
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 12), nn.Linear(12, 3))
    net[0].requires_grad_(False)
    net[4].requires_grad_(False)
    found = counted(net, 6)
    assert found["0.weight"] == 2 * 72 * 1
    assert found["2.weight"] == 2 * 60 * 2  # of its weights; nothing before it wants a gradient
    assert found["4.weight"] == 2 * 60 * 2  # of its inputs
    assert found["5.weight"] == 2 * 36 * 3
    assert found[""] == 144 + 240 + 240 + 216
    nothing = {name: torch.zeros_like(mask) for name, mask in dense(prunable(net)).items()}
    assert of_example(found, nothing) == Flops(840, 0)


def test_a_convolutional_network() -> None:
    """6x6 -> 4 channels of 3x3 -> 5 channels of 1x1 -> 3 classes."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 3)
    )
    found = counted(net, 2, 6, 6)
    assert found["0.weight"] == 2 * (4 * 9) * (2 * 9) * 2
    assert found["2.weight"] == 2 * 5 * (4 * 9) * 3
    assert found["4.weight"] == 2 * 15 * 3
    assert found[""] == 2592 + 1080 + 90


@pytest.mark.parametrize("examples", [1, 2, 7])
def test_counts_are_of_one_example(examples: int) -> None:
    assert counted(nn.Linear(6, 3), 6, examples=examples)[""] == 2 * 18 * 2


def test_counting_leaves_the_random_stream_of_a_study_alone() -> None:
    recipe = build(cell_configs([*TINY])[0]).study.recipe
    torch.manual_seed(3)
    before = torch.get_rng_state()
    recipe.flops({})
    assert torch.equal(torch.get_rng_state(), before)


class Sided(nn.Module):
    """Two branches from the inputs on."""

    def __init__(self) -> None:
        super().__init__()
        self.a1, self.a2, self.b1, self.b2 = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(6, 7), nn.Linear(7, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.a2(self.a1(inputs).relu()) + self.b2(self.b1(inputs).relu()))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight = self.one.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.two(self.one(inputs).relu()).relu())


def model(name: str, *shape: int) -> Callable[[], nn.Module]:
    return lambda: make("model", {"_target_": name, "shape": list(shape), "classes": 3, "_partial_": False})


def resnet() -> nn.Module:
    node = {"_target_": "lottery.models.resnet.resnet", "depth": 8, "width": 0.5, "shape": [3, 16, 16], "classes": 3}
    return make("model", {**node, "_partial_": False})


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Flatten(),
        nn.Linear(6 * 2 * 2, 3),
    )  # fmt: skip


ODD = [
    pytest.param(model("lottery.models.lenet.lenet_5", 1, 12, 12), (1, 12, 12), id="lenet_5"),
    pytest.param(resnet, (3, 16, 16), id="shortcuts"),
    pytest.param(Sided, (6,), id="branches"),
    pytest.param(separable, (4, 6, 6), id="grouped"),
    pytest.param(Tied, (6,), id="tied"),
    pytest.param(lambda: nn.Linear(6, 3), (6,), id="bare"),
]


@pytest.mark.parametrize(("network", "shape"), ODD)
def test_each_layer_has_its_own_and_together_they_are_the_whole(
    network: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    net = network()
    found, expected = counted(net, *shape), by_hand(net, *shape)
    assert list(expected) == [name for name in found if name in expected]
    assert {name: found[name] for name in expected} == expected
    assert found[""] == sum(expected.values())


@pytest.mark.parametrize(("network", "shape"), ODD)
@pytest.mark.parametrize("density", [0.0, 0.125, 0.5])
def test_where_every_layer_keeps_the_same_share_so_does_the_network(
    network: Callable[[], nn.Module], shape: tuple[int, ...], density: float
) -> None:
    net = network()
    masks = {name: torch.arange(mask.numel()).view(mask.shape) for name, mask in dense(prunable(net)).items()}
    masks = {name: numbers < density * numbers.numel() for name, numbers in masks.items()}
    share = {name: float(mask.double().mean()) for name, mask in masks.items()}
    flops = of_example(counted(net, *shape), masks)
    assert flops.scaled == pytest.approx(sum(share[n] * c for n, c in by_hand(net, *shape).items()), abs=1e-6)
    assert 0 <= flops.scaled <= flops.dense


def test_known_densities_scale_their_own_layers() -> None:
    counts = {"a.weight": 100.0, "b.weight": 40.0, "a": 7.0, "": 150.0}  # 10 of the 150 are of nothing prunable
    masks = {"a.weight": torch.tensor([True, False, False, False]), "b.weight": torch.tensor([True, False])}
    assert of_example(counts, masks) == Flops(dense=150.0, scaled=10 + 25 + 20)
    assert of_example(counts, {}) == Flops(150.0, 150.0)
    assert of_example(counts, {"c.weight": torch.tensor([False])}) == Flops(150.0, 150.0)  # not counted, not saved


def test_sums_and_multiples() -> None:
    assert Flops(3, 1) * 4 + Flops(0.5, 0.25) == Flops(12.5, 4.25)
    assert Flops() + Flops(3, 1) == Flops(3, 1)


LENET = 2 * 64 * 300 * 2 + 2 * 300 * 100 * 3 + 2 * 100 * 10 * 3  # an example of 8x8, forward and backward
DENSE = 30 * 60 * LENET  # 30 steps of 60 examples
HALVES = ("schedule.keep=0.5", "scope.output=1")  # each layer keeps exactly 1/2, then 1/4


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """The ledger of an arm of a tiny study; all share one store."""
    folder = tmp_path_factory.mktemp("flops")

    def lines(*overrides: str) -> list[dict[str, Any]]:
        cell = build(cell_configs([*TINY, *HALVES, *overrides])[0])
        record_cell(cell, folder / cell.label, Store(folder / "store"))
        return Ledger(folder / cell.label / NAME).lines()

    return lines


@pytest.mark.parametrize(
    ("overrides", "steps", "own", "before"),
    few([  # own and before: multiples of the dense training's FLOPs
        (["arm=imp"], [30, 30, 30], [1, 0.5, 0.25], [0, 1, 1.5]),
        (["arm=imp", "arm.rewind=10"], [30, 20, 20], [1, 0.5 * 2 / 3, 0.25 * 2 / 3], [0, 1, 1 + 0.5 * 2 / 3]),
        (["arm=finetune_parent", "arm.parent=one_shot"], [30, 8, 8], [1, 4 / 30, 2 / 30], [0, 1, 1]),
        (["arm=finetune", "arm.length.of_recipe=0.5"], [30, 15, 15], [1, 0.25, 0.125], [0, 1, 1.25]),
        (["arm=scratch_b"], [30, 60, 120], [1, 1, 1], [0, 1, 1.5]),
        (["arm=one_shot"], [30, 30, 30], [1, 0.5, 0.25], [0, 1, 1]),
        (["arm=random_reinit"], [30, 30, 30], [1, 0.5, 0.25], [0, 1, 1.5]),
        (["arm=finetune_parent"], [30, 8, 8], [1, 0.5 * 8 / 30, 0.25 * 8 / 30], [0, 1, 1.5]),
        (["arm=scratch_b", "arm.length.cap=3"], [30, 60, 90], [1, 1, 0.75], [0, 1, 1.5]),
    ], 4),
)  # fmt: skip
def test_the_ledger_counts_the_training_itself_and_all_that_came_before(
    ledgers: Callable[..., list[dict[str, Any]]],
    overrides: list[str],
    steps: list[int],
    own: list[float],
    before: list[float],
) -> None:
    lines = ledgers(*overrides)
    assert [line["density"] for line in lines] == [1, 0.5, 0.25]
    assert [line["train_steps"] for line in lines] == steps
    assert [line["train_flops"] for line in lines] == pytest.approx([DENSE * share for share in own], rel=1e-12)
    assert [line["total_flops"] for line in lines] == pytest.approx(
        [DENSE * (share + earlier) for share, earlier in zip(own, before, strict=True)], rel=1e-12
    )


def test_the_ledger_counts_zeros_too(ledgers: Callable[..., list[dict[str, Any]]]) -> None:
    lines = ledgers("arm=scratch_b")
    assert [line["train_flops_dense"] for line in lines] == [DENSE, 2 * DENSE, 4 * DENSE]
    assert [line["total_flops_dense"] for line in lines] == [DENSE, 3 * DENSE, 6 * DENSE]


def test_scratch_b_of_a_thin_network_with_shortcuts() -> None:
    resnet_8 = ("model=resnet_8", "model.width=0.5", "scope=layerwise", "schedule=one_shot", "schedule.density=0.1")
    cell = build(cell_configs([*(o for o in TINY if "rounds" not in o), *resnet_8, "arm=scratch_b"])[0])
    recipe = cell.study.recipe
    masks = dense(prunable(recipe.network()))
    masks = {name: torch.arange(mask.numel()).view(mask.shape) % 10 == 0 for name, mask in masks.items()}
    share = recipe.share(masks)
    assert 0.099 < share < 0.11
    assert cell.arm.length(recipe.budget, share).steps == pytest.approx(300, rel=0.1)
