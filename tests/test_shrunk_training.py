"""Rounds that train the network without its dead channels: the same mathematics, the same contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from lottery.data.examples import Data, Examples
from lottery.foundations.errors import Refused
from lottery.pruning import masks as _masks
from lottery.pruning.channelwise import channels
from lottery.pruning.contracts import Target, choose
from lottery.pruning.scopes import layerwise
from lottery.rounds.rewinding import as_one
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.training.fit import fit
from lottery.training.hardware import Hardware, Numerics
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Classifier
from lottery.training.phase import Phase
from lottery.training.recipes import Budget
from lottery.training.states import state_of
from tests.test_training import Killed, Memory, equal

STEPS = 100
SIZES: list[int] = []
"""numbers of weights of the networks that were asked for outputs"""


class Net(nn.Module):
    """A residual addition, BatchNorm without and with what is pruned behind it, all in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = (
            nn.Conv2d(1, 6, 3),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Conv2d(8, 6, 3, padding=1),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(size) for size in (6, 8, 6)])
        self.out = nn.Linear(6, 3)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        SIZES.append(sum(weight.numel() for weight in self.parameters()))
        whole = self.norms[0](self.first(inputs)).relu()
        inner = self.norms[1](self.one(whole)).relu()
        whole = (whole + self.norms[2](self.two(inner))).relu()
        return self.out(whole.mean((2, 3)))


def recipe(**changes: Any) -> ModuleRecipe:
    inputs = torch.randn(84, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    every = Examples(inputs, inputs.flatten(1)[:, :3].argmax(1))
    settings: dict[str, Any] = {
        "data": Data(every[:44], every[44:60], every[60:], batch_size=8, shape=(1, 6, 6), classes=3),
        "network": Net,
        "module": partial(Classifier, classes=3),
        "optimizer": partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
        "budget": Budget(STEPS, STEPS, 50),
        "numerics": Numerics(shrink="auto"),
        "hardware": Hardware(accelerator="cpu", checkpoint_seconds=1e-9),
    }
    return ModuleRecipe(**settings | changes)


@pytest.fixture(scope="module")
def phase() -> Phase:
    """Half of the channels are dead."""
    of = recipe()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = Net()
    every = _masks.dense(of.prunable(net))
    scores = {name: net.get_parameter(name).detach().abs() for name in every}
    masks = choose(partial(channels, layerwise, budget="channels"), scores, every, of.aimed(Target(0.5, 0.5)))
    state = state_of(net)
    _masks.apply_(state, masks)
    return Phase(state, masks, 0, STEPS, order=3, noise=4, structure=of.structure(masks))


def test_a_hundred_steps_are_the_same_mathematics(phase: Phase) -> None:
    SIZES.clear()
    small = fit(recipe(), phase)
    # 54 + 432 + 432 weights and their biases become 27 + 108 + 108, and so do norms and the output layer
    assert set(SIZES) == {27 + 3 + 108 + 4 + 108 + 3 + 2 * (3 + 4 + 3) + 9 + 3}
    whole = fit(recipe(), replace(phase, structure={}))
    assert {name: tensor.shape for name, tensor in small.state.items()} == {n: t.shape for n, t in whole.state.items()}
    assert equal(small.masks, whole.masks)
    for name, mask in phase.masks.items():
        torch.testing.assert_close(small.state[name], whole.state[name], rtol=0, atol=1e-10)
        assert not small.state[name][~mask].any()
    for one, other in zip(small.rows, whole.rows, strict=True):
        assert one == pytest.approx(other, rel=0, abs=1e-10)
    assert (small.state["one.weight"] - phase.state["one.weight"]).abs().max() > 0.01


def test_a_weight_with_two_names_is_small_under_both() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.out = nn.Linear(36, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.same = self.again
            self.double()

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.again(self.first(inputs.flatten(1)).relu()).relu()
            return self.out(self.same(hidden).relu())

    of = recipe(network=Tied)
    net = Tied()
    every = _masks.dense(of.prunable(net))
    scores = {name: net.get_parameter(name).detach().abs() for name in every}
    masks = choose(partial(channels, layerwise, budget="channels"), scores, every, of.aimed(Target(0.5, 0.5)))
    state = as_one(state_of(net), net)
    small = Phase(state, masks, 0, 20, order=3, noise=4, structure=of.structure(masks))
    assert small.structure
    ours, whole = fit(of, small), fit(of, replace(small, structure={}))
    for name, mask in masks.items():
        torch.testing.assert_close(ours.state[name], whole.state[name], rtol=0, atol=1e-10)
        assert not ours.state[name][~mask].any()


def test_removed_channels_are_as_they_began(phase: Phase) -> None:
    (gone,) = {tuple(sorted(set(range(8)) - set(kept))) for kept in [phase.structure["one.weight"][0]]}
    trained = fit(recipe(), phase)
    for name in ("one.bias", "norms.1.running_var", "norms.1.weight"):
        assert trained.state[name][list(gone)].equal(phase.state[name][list(gone)])


def test_killed_at_any_chunk_it_ends_the_same(phase: Phase) -> None:
    undisturbed = Memory()
    whole = fit(recipe(), phase, undisturbed, waypoints=[30])
    assert undisturbed.passed[30]["one.weight"].shape == (8, 6, 3, 3)
    assert equal(undisturbed.masks[30], phase.masks)
    memory = Memory(kill_after=1)
    with pytest.raises(Killed):
        fit(recipe(), phase, memory, waypoints=[30])
    again = fit(recipe(), phase, memory, waypoints=[30])
    assert equal(again.state, whole.state)
    assert again.rows == whole.rows
    assert equal(memory.passed[30], undisturbed.passed[30])


def test_only_masks_that_leave_channels_dead_shrink_a_phase(phase: Phase) -> None:
    single = {name: torch.ones_like(mask) for name, mask in phase.masks.items()}
    single["one.weight"][0, 0, 0, 0] = False
    assert recipe().structure(single) == {}
    assert recipe(numerics=Numerics()).structure(phase.masks) == {}
    assert recipe().structure(phase.masks) == phase.structure


def test_a_collapsed_layer_keeps_a_dead_channel(phase: Phase) -> None:
    masks = {name: torch.zeros_like(mask) for name, mask in phase.masks.items()}
    trained = fit(recipe(), replace(phase, masks=masks, structure=recipe().structure(masks)))
    assert not any(trained.state[name].any() for name in masks)


def test_a_study_shrinks_round_after_round(cell: Callable[..., Cell], tmp_path: Path) -> None:
    def play(shrink: str) -> list[Mapping[str, Any]]:
        folder = tmp_path / shrink / "imp" / "seed0"
        study = cell("structure=channels", "scope=layerwise", "schedule.rounds=3", f"numerics.shrink={shrink}")
        record_cell(study, folder, Store(tmp_path / "store"))
        return Ledger(folder / NAME).lines()

    small, whole = play("auto"), play("off")
    assert [line["density"] for line in small[:2]] == [line["density"] for line in whole[:2]]
    assert small[0]["phase"] == whole[0]["phase"], "the dense round is one training"
    assert all(one["phase"] != other["phase"] for one, other in zip(small[1:], whole[1:], strict=True))
    assert all(0.75 < line["density"] / before["density"] < 0.81 for before, line in pairwise(small))
    for one, other in zip(small, whole, strict=True):
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=0.01)


def test_other_structures_leave_no_channel_dead(cell: Callable[..., Cell]) -> None:
    with pytest.raises(Refused, match=r"numerics\.shrink=auto: goes with structure=channels"):
        cell("numerics.shrink=auto")
    with pytest.raises(Refused, match="structure=channels: goes with masks that change between rounds"):
        cell("structure=channels", "arm=gradual")


def test_a_module_with_a_forward_of_its_own_has_no_channels() -> None:
    class Scaled(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(2 * inputs)

    with pytest.raises(Refused, match="structure=channels: runs the network itself, and Scaled has a forward"):
        _ = recipe(module=partial(Scaled, classes=3)).coupling


@pytest.mark.parametrize("value", ["on", "yes", 1])
def test_a_value_that_can_not_be_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=f"shrink={value}: must be one of auto, off"):
        Numerics(shrink=value)
