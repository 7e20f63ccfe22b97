"""The structure of channels: how many go, which, and that a smaller network computes what the masks leave."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from lottery.compress.sizes import sizes
from lottery.config.build import build_recipe
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.models.resnet import resnet
from lottery.pruning.channels.coupling import Coupling, coupled
from lottery.pruning.channels.equality import without
from lottery.pruning.channels.masking import alive
from lottery.pruning.channels.removal import Kept, structure
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.channelwise import channels
from lottery.pruning.contracts import Scores, Target, choose
from lottery.pruning.masks import Masks, dense, density, prunable
from lottery.pruning.scopes import everywhere, layerwise
from lottery.training.costs import COSTS
from tests.channels import mlp
from tests.conftest import TINY


def magnitudes(net: nn.Module) -> Scores:
    return {name: weight.detach().abs() for name, weight in prunable(net).items()}


def target(share: float, found: Coupling) -> Target:
    return Target(share, share, channels=lambda: found)


@pytest.fixture
def net() -> nn.Module:
    return mlp()


@pytest.fixture
def found(net: nn.Module) -> Coupling:
    return coupled(net, lambda net: net(torch.zeros(1, 4)))


def test_half_of_the_channels_of_each_layer(net: nn.Module, found: Coupling) -> None:
    structure = partial(channels, layerwise, budget="channels")
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(0.5, found))
    assert alive(found, masks) == {"0.weight": [1, 2], "2.weight": [0, 2]}  # of 4 and 3: 2 and round(1.5) = 2
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 8, "2.weight": 4, "4.weight": 4}


def test_the_longest_rows_of_all_layers_live(net: nn.Module, found: Coupling) -> None:
    structure = partial(channels, everywhere, budget="channels", pool="mean")
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(4 / 7, found))
    assert alive(found, masks) == {"0.weight": [1], "2.weight": [0, 1, 2]}


def test_the_last_channel_of_a_group_lives(net: nn.Module, found: Coupling) -> None:
    structure = partial(channels, everywhere, budget="channels")
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(1 / 7, found))
    assert alive(found, masks) == {"0.weight": [1], "2.weight": [0]}


def test_a_density_is_one_of_weights_that_is_reached_from_below(net: nn.Module, found: Coupling) -> None:
    structure = partial(channels, layerwise)
    every = dense(prunable(net))  # 16 + 12 + 6 = 34 weights
    masks = choose(structure, magnitudes(net), every, target(0.5, found))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 8, "2.weight": 4, "4.weight": 4}
    assert density(masks) == 16 / 34
    fewer = choose(structure, magnitudes(net), masks, target(15.9 / 34, found))
    assert fewer["0.weight"].sum() < 8 or fewer["4.weight"].sum() < 4
    assert all((fewer[name] <= masks[name]).all() for name in masks)


def test_what_can_not_be_reached_is_said_with_what_can(net: nn.Module, found: Coupling) -> None:
    # one neuron in each layer: 4 + 1 + 2 weights of 34
    said = r"keeps 0\.2059 of the weights at the least, 7, and 1 at the most, 34; 0\.2 is asked for$"
    with pytest.raises(Refused, match=said):
        channels(layerwise, magnitudes(net), dense(prunable(net)), target(0.2, found))


def counted(net: nn.Module, found: Coupling, share: float) -> Target:
    """A target with costs that are those of the network that is really left."""

    def cost(budget: str, kept: Kept) -> int:
        return COSTS[budget](shrunk(net, structure(found, kept)), [(lambda net: net(torch.zeros(1, 4)), 1)])

    return Target(share, share, channels=lambda: found, cost=cost)


def of_sizes(first: int, second: int) -> dict[str, int]:
    """By hand, of 4 -> first -> second -> 2: parameters with biases, products without."""
    weights = 4 * first + first * second + 2 * second
    return {"parameters": weights + first + second + 2, "flops": weights}


@pytest.mark.parametrize("budget", ["parameters", "flops"])
@pytest.mark.parametrize("share", [0.3, 0.4, 0.5, 20 / 34, 27 / 43, 0.75, 0.95])  # 20 and 27 are those of (2, 3)
def test_a_density_is_a_share_of_a_budget_that_is_reached_from_below(
    budget: str, share: float, net: nn.Module, found: Coupling
) -> None:
    """`everywhere` keeps rows of length 9, 8, 7, 4, 3, 2, 1: those of the second layer before any of the first."""
    sizes = [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (4, 3)]  # a layer keeps one
    costs = [of_sizes(*each)[budget] for each in sizes]
    assert COSTS[budget](net, [(lambda net: net(torch.zeros(1, 4)), 1)]) == costs[-1]
    expected = max(size for size, cost in zip(sizes, costs, strict=True) if cost <= share * costs[-1])
    pruned = choose(
        partial(channels, everywhere, budget=budget), magnitudes(net), dense(prunable(net)), counted(net, found, share)
    )
    assert tuple(len(kept) for kept in alive(found, pruned).values()) == expected


def test_bytes_are_those_of_a_file(net: nn.Module, found: Coupling) -> None:
    masks = choose(
        partial(channels, everywhere, budget="bytes"), magnitudes(net), dense(prunable(net)), counted(net, found, 0.9)
    )
    small, whole = without(net, found, alive(found, masks), masks, lambda net: net(torch.zeros(1, 4))), net
    lengths = [sizes(each, torch.zeros(1, 4)).bytes for each in (small, whole)]
    assert lengths[0] <= 0.9 * lengths[1] < lengths[0] + 60  # five numbers and five of a bias's row more are too many


def test_budgets_are_shares_of_the_whole_network_in_every_round(net: nn.Module, found: Coupling) -> None:
    masks = dense(prunable(net))
    for share, kept in ((0.8, (3, 3)), (0.55, (2, 3)), (0.54, (2, 2)), (0.3, (1, 2))):  # 27, 20, 16 and 10 of 34
        asked = counted(net, found, share)
        masks = choose(partial(channels, layerwise, budget="flops"), magnitudes(net), masks, asked)
        assert tuple(map(len, alive(found, masks).values())) <= kept
        spent = of_sizes(*map(len, alive(found, masks).values()))["flops"]
        assert spent <= share * 34


def test_the_least_and_the_most_of_a_budget_are_said(net: nn.Module, found: Coupling) -> None:
    half = choose(
        partial(channels, everywhere, budget="channels"), magnitudes(net), dense(prunable(net)), target(4 / 7, found)
    )
    said = (
        r"^structure=channels: keeps 0\.2558 of the parameters at the least, 11, and 0\.4419 at the most, 19; "
        r"0\.2 is asked for$"
    )
    with pytest.raises(Refused, match=said):
        channels(everywhere, magnitudes(net), half, counted(net, found, 0.2), budget="parameters")
    with pytest.raises(Refused, match=r"^structure\.budget=bytes: is counted on the network, and there is none here$"):
        channels(everywhere, magnitudes(net), half, target(0.2, found), budget="bytes")


def test_a_budget_that_the_network_does_not_have_is_refused(net: nn.Module, found: Coupling) -> None:
    nothing = Target(0.5, 0.5, channels=lambda: found, cost=lambda budget, kept: 0)
    with pytest.raises(Refused, match=r"^structure\.budget=flops: the whole network has none$"):
        channels(layerwise, magnitudes(net), dense(prunable(net)), nothing, budget="flops")


@pytest.mark.parametrize("budget", ["parameters", "flops", "bytes"])
def test_a_recipe_counts_what_the_smaller_network_costs(budget: str) -> None:
    (job,) = cell_configs([*TINY, "model=resnet_8", "structure=channels"])
    recipe = build_recipe(job.config)
    kept = {group.name: list(range(0, group.size, 2)) for group in recipe.coupling.groups}
    small = shrunk(recipe.net, structure(recipe.coupling, kept))
    expected = sizes(small.eval(), torch.zeros(1, 1, 8, 8))
    named = {"parameters": expected.parameters, "flops": expected.multiply_adds, "bytes": expected.bytes}
    before = {name: tensor.clone() for name, tensor in recipe.net.state_dict().items()}
    assert recipe.cost(budget, kept) == named[budget] < recipe.cost(budget, {}) / 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in recipe.net.state_dict().items())
    assert recipe.net.training
    target = recipe.aimed(Target(0.5, 0.5))
    assert target.cost(budget, kept) == named[budget]


@pytest.mark.parametrize(
    ("multiple", "least", "kept"), [(2, 1, [2, 2]), (1, 3, [3, 3]), (4, 1, [4, 3]), (3, 1, [3, 3]), (2, 3, [4, 3])]
)
def test_numbers_of_channels_are_rounded(
    multiple: int, least: int, kept: list[int], net: nn.Module, found: Coupling
) -> None:
    structure = partial(channels, layerwise, budget="channels", multiple=multiple, least=least)
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(0.5, found))
    assert [len(each) for each in alive(found, masks).values()] == kept


@pytest.mark.parametrize("pool", ["mean", "sum", "max", "norm", "first"])
def test_pools_of_coupled_rows(pool: str) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.out(self.one(inputs) + self.two(inputs))

    net = Sum()
    rows = {"one": [[2.0, 2.0], [4.0, 3.0], [4.5, 0.0]], "two": [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]}
    with torch.no_grad():
        for name, values in rows.items():
            net.get_submodule(name).weight.copy_(torch.tensor(values))
    best = {"mean": 0, "sum": 0, "max": 2, "norm": 1, "first": 1}
    # sums 8, 7, 4.5; largest 2, 4, 4.5; 2-norms 4, 5, 4.5; of `one` alone 4, 7, 4.5
    found = coupled(net, lambda net: net(torch.zeros(1, 2)))
    structure = partial(channels, everywhere, budget="channels", pool=pool)
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(1 / 3, found))
    assert alive(found, masks) == {"one.weight": [best[pool]]}


def test_means_and_sums_compare_rows_of_different_lengths_differently() -> None:
    """Rows of four weights with means 1 and 1.2, of two with 3 and 1.5: the sums are 4, 4.8, 6 and 3."""
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        for layer, means in ((net[0], [1.0, 1.2]), (net[2], [3.0, 1.5])):
            layer.weight.copy_(torch.tensor(means)[:, None].expand_as(layer.weight))
    found = coupled(net, lambda net: net(torch.zeros(1, 4)))
    for pool, kept in (("mean", [0, 1]), ("sum", [0])):
        structure = partial(channels, everywhere, budget="channels", pool=pool)
        masks = choose(structure, magnitudes(net), dense(prunable(net)), target(3 / 4, found))
        assert alive(found, masks)["2.weight"] == kept


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_only_unpruned_weights_count_in_a_pool(pool: str, net: nn.Module, found: Coupling) -> None:
    """What is pruned scores highest under a criterion of small weights, and says nothing of a channel."""
    structure = partial(channels, layerwise, budget="channels", pool=pool)
    masks = dense(prunable(net))
    masks["0.weight"][1, :3] = False  # three of the four weights of the row of 4
    masks["0.weight"][2, :1] = False  # one of the row of 3
    scores = {name: (-score).masked_fill(~masks[name], 100) for name, score in magnitudes(net).items()}
    masks = choose(structure, scores, masks, target(0.6, found))
    assert alive(found, masks) == {"0.weight": [0, 3], "2.weight": [1, 2]}  # the rows of 1 and 2, of 7 and 8
    scores = {name: score.masked_fill(~masks[name], 100) for name, score in scores.items()}
    masks = choose(structure, scores, masks, target(0.3, found))  # of rows with half of their columns pruned
    assert alive(found, masks) == {"0.weight": [0], "2.weight": [1]}


@pytest.mark.parametrize("budget", ["weights", "channels"])
def test_of_a_group_that_has_died_one_channel_stays(budget: str, net: nn.Module, found: Coupling) -> None:
    """Without a weight in the second layer nobody reads the first one either."""
    masks = dense(prunable(net))
    masks["2.weight"][:] = False
    masks = choose(partial(channels, layerwise, budget=budget), magnitudes(net), masks, target(0.4, found))
    assert masks["0.weight"].any(1).tolist() == [True, False, False, False]
    assert not masks["2.weight"].any()


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_floors_of_a_scope_do_not_end_the_search(share: float, net: nn.Module, found: Coupling) -> None:
    structure = partial(channels, partial(everywhere, floor=2))
    masks = choose(structure, magnitudes(net), dense(prunable(net)), target(share + 0.2, found))
    assert all(len(kept) >= 2 for kept in alive(found, masks).values())
    with pytest.raises(Refused, match=r"keeps 0\.\d+ of the weights at the least"):
        choose(partial(channels, partial(everywhere, floor=3)), magnitudes(net), masks, target(0.1, found))


def test_a_resnet_becomes_smaller_round_after_round() -> None:
    torch.manual_seed(0)
    net = resnet(8, 1, [3, 32, 32], 10).eval()

    def run(net: nn.Module) -> torch.Tensor:
        result: torch.Tensor = net(torch.ones(2, 3, 32, 32))
        return result

    found = coupled(net, run)
    masks: Masks = dense(prunable(net))
    for share in (0.6, 0.3, 0.1):
        masks = choose(partial(channels, everywhere), magnitudes(net), masks, target(share, found))
        assert 0.9 * share < density(masks) <= share
    small = without(net, found, alive(found, masks), dense(prunable(net)), run)
    weights = sum(weight.numel() for weight in prunable(small).values())
    assert weights == sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pool": "median"}, "structure.pool=median: must be one of mean, sum, max, norm, first"),
        (
            {"budget": "latency"},
            "structure.budget=latency: is measured, and .* `lottery compress --within latency=2ms`",
        ),
        ({"budget": "area"}, "structure.budget=area: must be one of weights, channels, parameters, flops, bytes"),
        ({"least": 0}, "structure.least=0: must be at least 1"),
        ({"multiple": 0}, "structure.multiple=0: must be at least 1"),
    ],
)
def test_settings_that_can_not_be(setting: dict[str, object], message: str, net: nn.Module, found: Coupling) -> None:
    with pytest.raises(ValueError, match=message):
        channels(layerwise, magnitudes(net), dense(prunable(net)), target(0.5, found), **setting)
