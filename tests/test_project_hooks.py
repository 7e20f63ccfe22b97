"""What a project does in `setup` and in hooks: the data of each stage, weights that are given, masks that hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import seeded
from lottery.rounds.round import initial
from lottery.running.launch import run_cell
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.holding import Holding
from lottery.training.lightning.project import Project
from lottery.training.states import weights
from tests.few import few
from tests.lightning import ADVICE, Kept, differing, every, phase_of, some_masks
from tests.projects import staged

pytestmark = ADVICE


def recipe_of(kind: str, *more: str) -> Project:
    given = [f"model._target_=tests.projects.staged.{kind}", "data._target_=tests.projects.staged.ByStage"]
    [job] = cell_configs([*given, "headline=acc", "budget.steps=3ep", "tracking.mode=disabled", *more])
    recipe = build(job).study.recipe
    assert isinstance(recipe, Project)
    return replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))


@pytest.mark.slow
def test_each_part_is_of_its_own_stage_as_lightning_has_it() -> None:
    data = recipe_of("Plain").data
    assert {part: len(data.loader(part).dataset) for part in ("train", "val", "test")} == {
        "train": 32,
        "val": 16,
        "test": 24,
    }
    assert data.loader("train").dataset.noisy
    assert data.loader("train").batch_size == 8
    assert data.module.trainer is None
    found = fit(recipe := recipe_of("Plain"), phase := phase_of(recipe))
    with seeded(phase.build):
        plain, trainer = staged.Plain(), pl.Trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu",
        )  # fmt: skip
    plain.load_state_dict(weights(found.state))
    [logged] = trainer.test(plain, datamodule=staged.ByStage(), verbose=False)
    assert found.rows[-1]["test_loss"] == pytest.approx(logged["test_loss"], rel=1e-6)


def test_setup_is_part_of_the_initialisation_and_leaves_given_weights() -> None:
    recipe = recipe_of("Pretrained")
    start = initial(recipe, 5)
    expected = torch.nn.init.normal_(torch.empty(16, 6), std=0.3, generator=torch.Generator().manual_seed(7))
    assert start["net.0.weight"].equal(expected)
    assert "head.weight" in start
    masks = some_masks(recipe)
    other = {name: tensor + 1 for name, tensor in weights(start).items()}
    one, two = (fit(recipe, phase_of(recipe, masks, state=state), evaluate=True) for state in (start, other))
    assert one.rows[-1]["test_loss"] != two.rows[-1]["test_loss"]
    again = recipe.measured(two.state, ["test"], 0, 5)
    assert again["test_loss"] == two.rows[-1]["test_loss"]
    for name, mask in masks.items():
        assert not two.state[name][~mask].any()


def test_layers_are_configured_once() -> None:
    recipe = recipe_of("Unguarded")
    state = weights(initial(recipe, 5))
    one, two = (fit(recipe, phase_of(recipe, state=start)) for start in (state, {n: t + 1 for n, t in state.items()}))
    assert one.rows[-1]["test_loss"] != two.rows[-1]["test_loss"]
    assert recipe.measured(two.state, ["test"], 0, 5)["test_loss"] == two.rows[-1]["test_loss"]


@pytest.mark.slow
def test_hooks_that_reach_in_are_told_from_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are masked once a step, and again where a hook may have changed them."""
    times = []
    monkeypatch.setattr(Holding, "mask_weights", lambda self, own=Holding.mask_weights: times.append(own(self)))
    for kind, each in (("Plain", 1), ("CentredBatch", 2)):
        recipe = recipe_of(kind)
        times.clear()
        fit(recipe, phase_of(recipe, some_masks(recipe)))
        assert len(times) == each * recipe.budget.steps + 1  # and as training begins


def test_setup_that_fails_before_training_must_not_draw_weights_then() -> None:
    recipe = recipe_of("LateSetup")
    with pytest.raises(Refused, match=r"model: setup of LateSetup changes weights, but failed when the"):
        fit(recipe, phase_of(recipe))


@pytest.mark.parametrize("kind", few(["CentredBatch", "CentredStep"], 1))
def test_masks_hold_whatever_hooks_put_into_weights(kind: str) -> None:
    recipe = recipe_of(kind)
    phase = phase_of(recipe, masks := some_masks(recipe))
    state = {n: t * masks[n] if n in masks else t for n, t in phase.state.items()}
    whole = fit(recipe, phase := replace(phase, state=state), keeper := Kept())
    for name, mask in masks.items():
        assert not whole.state[name][~mask].any()
    for begin in every(keeper.saved, 5):
        again = fit(recipe, phase, Kept(begin))
        assert not differing(again.state, whole.state), f"from step {begin[1]['step']}"
        assert again.rows == whole.rows


@pytest.mark.parametrize("kind", few(["Centred", "CentredGradient"], 1))
def test_what_hooks_add_to_gradients_of_pruned_weights_is_not_clipped(kind: str) -> None:
    recipe = recipe_of(kind)
    masks = some_masks(recipe)
    staged.seen.clear()
    fit(recipe, phase_of(recipe, masks))
    assert len(staged.seen) == recipe.budget.steps
    for gradients in staged.seen:
        assert not any(gradients[name][~mask].any() for name, mask in masks.items())
        assert any(gradients[name][mask].any() for name, mask in masks.items())


@pytest.mark.slow
def test_lightning_by_its_newer_name_is_the_same() -> None:
    """In a process of its own, since imports last; `lightning` itself need not be installed."""
    code = """
from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.training.fit import fit
from tests.lightning import phase_of
given = ["model._target_=tests.projects.newer.Newer", "data._target_=tests.projects.newer.Data", "headline=acc"]
[job] = cell_configs([*given, "budget.steps=1ep", "tracking.mode=disabled"])
recipe = build(job).study.recipe
assert fit(recipe, phase_of(recipe)).rows[-1]["step"] == 4
import lightning.fabric.utilities, lightning_fabric, lightning.pytorch.loggers, pytorch_lightning
assert lightning.fabric.utilities is lightning_fabric.utilities and lightning.pytorch is pytorch_lightning
assert pytorch_lightning.__spec__.name == "pytorch_lightning"
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_code_that_was_edited_under_a_sweep_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later cell would train what was imported, under the name of what the file is now."""
    file = Path(shutil.copy(staged.__file__, tmp_path / "edited.py"))
    monkeypatch.syspath_prepend(tmp_path)
    given = ["model._target_=edited.Plain", "data._target_=edited.ByStage", "headline=acc", "schedule.rounds=0"]
    given += ["budget.steps=1ep", "tracking.mode=disabled", "hardware=cpu", f"out={tmp_path}/a", f"store={tmp_path}/s"]
    run_cell(cell_configs([*given, "seed=0"])[0])
    file.write_text(file.read_text() + "\nMORE = 1\n")
    with pytest.raises(Refused, match="edited: its files have changed since this command began"):
        run_cell(cell_configs([*given, "seed=1"])[0])
    assert len(list(tmp_path.glob("a/*/*/*/ledger.jsonl"))) == 1
