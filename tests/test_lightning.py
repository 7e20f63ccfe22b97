"""A user's LightningModule and DataModule, unchanged: trained as plain Lightning does, masked, resumable anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.states import position, weights
from tests.lightning import KINDS, Kept, differing, every, phase_of, plainly, recipe_of, some_masks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's, of plain runs


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of the projects writes a file


@pytest.mark.parametrize("kind", KINDS)
def test_an_unpruned_training_is_that_of_plain_lightning(kind: str) -> None:
    recipe = recipe_of(kind)
    phase = phase_of(recipe)
    ours = fit(recipe, phase)
    theirs, logged = plainly(kind, recipe, phase, recipe.arguments)
    assert not differing(weights(ours.state), theirs)
    for name, called in recipe.logged["val"].names.items():
        assert ours.rows[-1][called] == pytest.approx(logged[name], rel=1e-6)
    assert len(ours.rows) == 2
    assert ours.rows[-1]["step"] == phase.last
    assert all(f"test_{recipe.headline.name}" in row for row in ours.rows)


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_weights_are_zero_and_every_checkpoint_goes_on_to_the_same_end(kind: str) -> None:
    recipe = recipe_of(kind)
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    masks = some_masks(recipe)
    phase = phase_of(recipe, masks)
    state = {n: t * masks[n] if n in masks else t for n, t in phase.state.items()}
    phase = replace(phase, state=state)
    keeper = Kept()
    whole = fit(recipe, phase, keeper)
    for name, mask in masks.items():
        assert not whole.state[name][~mask].any()
        assert differing({name: whole.state[name]}, {name: state[name]}) or not mask.any() or "1." in name
    steps = [info["step"] for _, info in keeper.saved]
    assert {1, phase.last // 2} <= set(steps)  # in the middle of an epoch, and between two
    for begin in every(keeper.saved, 4 if kind == "finetune" else 8):
        again = fit(recipe, phase, Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"
        assert again.rows == whole.rows, f"from step {begin[1]['step']}"


@pytest.mark.parametrize("kind", ["classifier", "segmenter", "gan"])
def test_a_phase_is_part_of_a_longer_one(kind: str) -> None:
    recipe = recipe_of(kind)
    half = recipe.budget.steps // 2
    for k in (half // 2, half):  # in the middle of an epoch, and between two
        keeper = Kept()
        whole = fit(recipe, phase_of(recipe), keeper, waypoints=[k])
        start = keeper.passed[k]
        assert position(start)
        assert not differing(fit(recipe, phase_of(recipe, last=k)).state, start)
        rest = fit(recipe, phase_of(recipe, state=start, first=k))
        assert [row["step"] for row in rest.rows] == [row["step"] for row in whole.rows if row["step"] > k]
        assert differing(rest.state, whole.state)  # the optimizer begins fresh


@pytest.mark.parametrize("workers", [2])
def test_workers_change_no_number(workers: int) -> None:
    ends = []
    for count in (0, workers):
        recipe = recipe_of("classifier", f"data.workers={count}")
        ends.append(fit(recipe, phase_of(recipe)))
    assert not differing(ends[0].state, ends[1].state)
    assert ends[0].rows == ends[1].rows


def test_gradients_of_pruned_weights_count_in_no_clipping() -> None:
    clipped = recipe_of("classifier", "trainer.gradient_clip_val=0.1")
    masks = some_masks(clipped, 0.1)
    phase = phase_of(clipped, masks)
    state = {n: t * masks[n] if n in masks else t for n, t in phase.state.items()}
    seen = []
    own = clipped.network

    def network() -> torch.nn.Module:
        module = own()

        def on_before_optimizer_step(optimizer: torch.optim.Optimizer) -> None:
            named = dict(module.named_parameters())
            seen.append(any(named[name].grad[~mask].any() for name, mask in masks.items()))

        module.on_before_optimizer_step = on_before_optimizer_step  # type: ignore[assignment]
        return module

    fit(replace(clipped, network=network), replace(phase, state=state))
    assert seen
    assert not any(seen)
