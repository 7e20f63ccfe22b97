"""Compensations in users' Lightning projects: they see what training_step gives to what it calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lottery.config.check import check
from lottery.foundations.errors import Refused
from lottery.pruning.compensation.biases import mean
from lottery.pruning.compensation.contracts import Compensation, Pruned, compensated
from lottery.pruning.compensation.norms import norm
from lottery.pruning.compensation.regression import least_squares
from lottery.pruning.compensation.statistics import batch_norm
from lottery.pruning.masks import dense
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.training.lightning.module.evidence import EvidenceBatches
from lottery.training.lightning.project import Project
from lottery.training.states import State, state_of
from tests.channels import drawn
from tests.lightning import ADVICE, cell_of
from tests.projects.classifier import LitClassifier, PicturesModule
from tests.test_channels_projects import Functions, made, own, project

pytestmark = ADVICE


def calibrated(recipe: Project, state: State, name: str, *lost: int) -> Pruned:
    """A state of which one layer loses some inputs."""
    masks = dense(recipe.prunable(recipe.net))
    masks[name][:, list(lost)] = False
    return recipe.calibration(state, masks, 5, 11)


def siamese() -> tuple[Project, nn.Module]:
    recipe = project("siamese")
    return recipe, drawn(recipe.build(5)).eval()


def test_mean_is_exact_for_a_unit_that_never_varies() -> None:
    recipe, net = siamese()
    with torch.no_grad():
        net.encoder[3].weight[2], net.encoder[3].bias[2] = 0, 0.75
    found = compensated(mean, calibrated(recipe, state_of(net), "encoder.5.weight", 2))
    wanted = net.encoder[5].bias + 0.75 * net.encoder[5].weight[:, 2]
    torch.testing.assert_close(found["encoder.5.bias"], wanted, rtol=0, atol=1e-6)


def test_survivors_come_closer_to_what_they_computed() -> None:
    recipe, net = siamese()
    pruned = calibrated(recipe, state_of(net), "encoder.5.weight", *range(0, 32, 2))
    (a, b), _ = next(iter(EvidenceBatches(recipe.data, 11)))

    def error(compensation: Compensation) -> float:
        with torch.no_grad():
            return float(
                (torch.func.functional_call(net, compensated(compensation, pruned), (a, b)) - net(a, b)).norm().detach()
            )

    assert error(least_squares) < 0.5 * error(lambda pruned: {})
    assert error(mean) < error(lambda pruned: {})
    assert compensated(norm, pruned)["encoder.5.weight"][:, ::2].abs().max() == 0


def test_statistics_are_those_of_what_training_gives() -> None:
    recipe, net = siamese()
    pruned = calibrated(recipe, state_of(net), "encoder.0.weight", 3)
    found = compensated(lambda pruned: batch_norm(pruned, batches=3), pruned)
    moments = []
    with torch.no_grad():
        net.encoder[0].weight[:, 3] = 0
        for (a, b), _ in list(EvidenceBatches(recipe.data, 11))[:3]:
            moments += [net.encoder[0](side).mean(0) for side in (a, b)]
    torch.testing.assert_close(found["encoder.1.running_mean"], torch.stack(moments).mean(0), rtol=1e-5, atol=1e-5)


def test_every_iteration_gives_the_same_and_moves_nothing() -> None:
    """Of a module whose step draws (mixup) from a loader that draws."""
    recipe = project("classifier")
    state = state_of(recipe.build(5))
    pruned = calibrated(recipe, state, "net.4.weight", 1)
    before = {name: tensor.clone() for name, tensor in pruned.net.state_dict().items()}
    one, other = (list(pruned.first(3)) for _ in range(2))
    assert [len(calls) for calls in one] == [1, 1, 1]
    for calls, again in zip(one, other, strict=True):
        assert torch.equal(calls[0].tensors[0], again[0].tensors[0])
    assert not torch.equal(one[0][0].tensors[0], one[1][0].tensors[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.net.state_dict().items())
    assert not pruned.net.training


def test_what_a_step_draws_does_not_depend_on_workers() -> None:
    seen = []
    for workers in (0, 1):
        recipe = made(LitClassifier, PicturesModule(n=96, workers=workers))
        (calls,) = calibrated(recipe, state_of(recipe.net), "net.4.weight", 1).first(1)
        seen.append(calls[0].tensors[0])
    assert torch.equal(*seen)


def test_both_networks_of_a_gan_see_their_own_inputs() -> None:
    recipe = project("gan")
    (calls,) = recipe.calibration(state_of(recipe.net), dense(recipe.prunable(recipe.net)), 5, 11).first(1)
    assert [call.path for call in calls] == ["", "discriminator", "discriminator", "", "discriminator"]


def test_a_step_that_calls_nothing_is_refused() -> None:
    recipe = own(Functions)
    with pytest.raises(Refused, match="how the network of Functions runs can't be told: training_step calls no part"):
        compensated(mean, recipe.calibration(state_of(recipe.net), dense(recipe.prunable(recipe.net)), 5, 11))
    pruned = recipe.calibration(state_of(recipe.net), dense(recipe.prunable(recipe.net)), 5, 11)
    with pytest.raises(Refused, match="training_step calls no part"):
        next(pruned.first(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_norm", "mean", "norm", "least_squares"])
def test_rounds_with_compensation(name: str, tmp_path: Path) -> None:
    line = ["arm=lr_rewind", "schedule.rounds=1", "structure=channels", "scope=layerwise", f"compensation={name}"]
    cell = cell_of("classifier", "data.n=96", *line, f"out={tmp_path}")
    check(cell)
    folder = tmp_path / "study" / "lr_rewind" / "seed0"
    record_cell(cell, folder, Store(tmp_path / "store"))
    assert [row["round"] for row in Ledger(folder / NAME).lines()] == [0, 1]
    with pytest.raises(Refused, match="arm=imp does not train those on; arm=lr_rewind does"):
        cell_of("classifier", "arm=imp", f"compensation={name}")
