"""Sparse training equals dense: against masked dense training in float64, and in a whole study."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lottery.data.examples import Data, Examples
from lottery.pruning import masks as _masks
from lottery.rounds.study import Cell
from lottery.store.phases import phase_of, specification
from lottery.training import optimizers, sparse
from lottery.training.fit import fit
from lottery.training.hardware import Hardware, Numerics
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Classifier
from lottery.training.phase import Phase, Trained
from lottery.training.recipes import Budget
from lottery.training.sparse import SparseLinear, install, layers
from lottery.training.states import state_of
from tests.test_training import Memory, equal

STEPS = 100
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "momentum and decay": partial(optimizers.sgd, lr=0.05, weight_decay=0.01),
    "nesterov, decay of weights, clipped": partial(
        optimizers.sgd, lr=0.05, nesterov=True, weight_decay=0.1, decay="weights", clip_norm=0.5
    ),
    "adam": partial(optimizers.adam, lr=0.01),
    "adamw": partial(optimizers.adamw, lr=0.01, weight_decay=0.1, decay="weights"),
}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(30, 40), nn.ReLU(inplace=True), nn.Linear(40, 20, bias=False), nn.Tanh(), nn.Linear(20, 3)
    ).double()


def data() -> Data:
    inputs = torch.randn(100, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = Examples(inputs, inputs[:, :3].argmax(1))
    return Data(whole[:60], whole[60:80], whole[80:], batch_size=10, shape=(30,), classes=3)


def phase(last: int = STEPS) -> Phase:
    torch.manual_seed(2)
    net = network()
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in _masks.prunable(net).items()}
    masks["0.weight"][3] = False  # a unit without inputs, and one without outputs
    masks["2.weight"][:, 5] = False
    return Phase(state_of(net), masks, 0, last, order=3, noise=4)


def trained(work: Phase, names: tuple[str, ...], keeper: Memory | None = None, **changes: Any) -> Trained:
    budget = Budget(STEPS, STEPS, evaluate=50)
    recipe = ModuleRecipe(data(), network, budget, module=partial(Classifier, classes=3), optimizer=OPTIMIZERS["adam"])
    given = {"hardware": Hardware(accelerator="cpu", checkpoint_seconds=1e-9), **changes}
    work = Phase(**{**vars(work), "sparse": names})
    return fit(ModuleRecipe(**{**vars(recipe), **given}), work, keeper)


@pytest.mark.parametrize("sampled", [0.0, 1.0], ids=["dense gradient", "sampled gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_100_steps_are_those_of_dense_layers_under_masks(
    optimizer: Callable[..., Optimizer], sampled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "SAMPLED", sampled)
    work = phase()
    dense = trained(work, (), optimizer=optimizer)
    thin = trained(work, ("0.weight", "2.weight"), optimizer=optimizer)
    assert list(thin.state) == list(dense.state)
    for name, tensor in dense.state.items():
        assert (thin.state[name] - tensor).abs().max() < 1e-10
        assert not torch.equal(tensor, work.state[name])
    for name, mask in work.masks.items():
        assert not thin.state[name][~mask].any()
        assert thin.state[name][mask].all()
    for one, other in zip(dense.rows, thin.rows, strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_the_optimizer_keeps_state_for_kept_values_alone() -> None:
    keeper, work = Memory(), phase(last=3)
    trained(work, ("0.weight", "2.weight"), keeper)
    tensors, _ = keeper.saved[-1]
    sizes = {name: tensor.numel() for name, tensor in tensors.items() if name.endswith("exp_avg")}
    kept = {name: int(mask.sum()) for name, mask in work.masks.items()}
    assert list(sizes.values()) == [kept["0.weight"], 40, kept["2.weight"], 60, 3]  # the last layer is dense
    assert tensors["net.0.weight"].shape == (40, 30)


def test_going_on_from_any_checkpoint_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lottery.training.loop.CHUNK", 5)
    names, undisturbed, work = ("0.weight", "2.weight"), Memory(), phase(last=20)
    whole = trained(work, names, undisturbed)
    for stop in range(1, len(undisturbed.saved)):
        keeper = Memory()
        keeper.saved = undisturbed.saved[:stop]
        assert equal(trained(work, names, keeper).state, whole.state)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100), st.sampled_from([(4,), (2, 3), (1,), (0,)]))
def test_a_sparse_layer_is_the_dense_one(rows: int, columns: int, seed: int, batch: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    mask = torch.rand(rows, columns) < 0.5
    mask[0, 0] = True
    dense = nn.Linear(columns, rows, bias=bool(seed % 2)).double()
    dense.weight.data[~mask] = 0
    layer = SparseLinear(copy.deepcopy(dense), mask)
    assert torch.equal(layer.dense(), dense.weight)
    assert equal(layer.state_dict(), dense.state_dict())
    ours, theirs = (torch.randn(*batch, columns, dtype=torch.float64).requires_grad_() for _ in range(2))
    with torch.no_grad():
        ours.copy_(theirs)
    one, other = layer(ours), dense(theirs)
    assert torch.allclose(one, other, atol=1e-12)
    weights = torch.randn_like(other)
    (one * weights).sum().backward()
    (other * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    assert torch.allclose(layer.values.grad[0], dense.weight.grad[mask], atol=1e-12)
    if dense.bias is not None:
        assert torch.allclose(layer.bias.grad, dense.bias.grad, atol=1e-12)
    layer.load_state_dict({name: 2 * tensor for name, tensor in dense.state_dict().items()})
    assert torch.equal(layer.dense(), 2 * dense.weight.detach())


# which layers


def thinned(net: nn.Module, density: float) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.rand(weight.shape) < density for name, weight in _masks.prunable(net).items()}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Embedding(200, 200), nn.Linear(200, 200)
        self.back.weight = self.there.weight


class Own(nn.Linear):
    """A subclass, which may do more than nn.Linear."""


def test_thin_linear_layers_train_sparse() -> None:
    net = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 20), nn.Conv2d(200, 200, 1), Own(200, 200), Tied())
    for density, everywhere, expected in [
        (0.1, False, ("0.weight",)),
        (0.25, False, ()),
        (0.25, True, ("0.weight", "1.weight")),
        (1.0, True, ()),
        (0.0, True, ()),
    ]:
        assert layers(net, thinned(net, density), Adam(net.parameters()), everywhere) == expected
    for optimizer in (SGD(net.parameters()), AdamW(net.parameters())):
        assert layers(net, thinned(net, 0.1), optimizer, False) == ("0.weight",)
    across = torch.optim.NAdam(net.parameters())
    assert layers(net, thinned(net, 0.1), across, True) == ()


def test_a_network_that_reads_the_weight_itself_is_told_so() -> None:
    net = nn.Sequential(nn.Linear(200, 200))
    install(net, thinned(net, 0.1), ("0.weight",))
    with pytest.raises(AttributeError, match=r"reads the weight itself: use numerics\.sparse=off"):
        _ = net[0].weight
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = net[0].no_such_thing


# in a study

LENET = {"fc1.weight": (300, 64), "fc2.weight": (100, 300), "output.weight": (10, 100)}


@pytest.mark.parametrize(
    ("overrides", "density", "expected"),
    [
        ([], 0.1, ["fc1.weight", "fc2.weight"]),
        ([], 0.5, None),
        (["numerics.sparse=off"], 0.1, None),
        (["numerics.sparse=on"], 0.5, ["fc1.weight", "fc2.weight", "output.weight"]),
        (["numerics.precision=bf16-mixed"], 0.1, None),
    ],
)
def test_a_phase_s_key_says_what_trains_sparse(
    cell: Callable[..., Cell], overrides: list[str], density: float, expected: list[str] | None
) -> None:
    made = cell("hardware=cpu", *overrides)
    torch.manual_seed(0)
    found = {name: torch.rand(shape) < density for name, shape in LENET.items()}
    state = made.study.recipe.network().state_dict()
    from lottery.rounds.round import Round, Ticket

    recipe = made.study.recipe
    current = Round(1, Ticket(state, found), 0, recipe.budget, lambda current: Trained({}, {}, []))
    spec = specification(recipe, made.study.identity, phase_of(recipe, 0, current))
    assert spec.get("sparse") == expected
    assert "sparse" not in spec["recipe"]["numerics"]


def test_on_a_gpu_rounds_stay_dense_unless_asked(cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(Hardware, "device", "cuda")
    found = thinned(cell().study.recipe.net, 0.1)
    assert cell().study.recipe.sparse_weights(found) == ()
    assert len(cell("numerics.sparse=on").study.recipe.sparse_weights(found)) == 3


@pytest.mark.parametrize(("sparse", "precision"), [("maybe", "32"), ("on", "bf16-mixed")])
def test_what_numerics_refuse(sparse: str, precision: str) -> None:
    with pytest.raises(ValueError, match=rf"^sparse={sparse}: "):
        Numerics(precision=precision, sparse=sparse)
    assert [Numerics(sparse=value).sparse for value in (True, False)] == ["on", "off"]


def test_a_frozen_layer_stays_as_it_is_under_every_density() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    net[0].requires_grad_(False)
    masks = thinned(net, 0.1)
    assert layers(net, masks, Adam(net.parameters()), False) == ("2.weight",)
    assert layers(net, masks, Adam(net.parameters()), True) == ("2.weight", "4.weight")


def test_a_layer_that_is_used_twice_or_has_hooks_stays_dense() -> None:
    layer = nn.Linear(200, 200)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert layers(twice, thinned(twice, 0.1), Adam(twice.parameters()), False) == ()
    hooked = nn.Sequential(nn.Linear(200, 200))
    hooked[0].register_forward_hook(lambda *_: None)
    assert layers(hooked, thinned(hooked, 0.1), Adam(hooked.parameters()), False) == ()
