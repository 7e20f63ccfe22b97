"""Analyses of a user's Lightning project: lines, BatchNorm's statistics, layers alone, and a run with all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lottery.analyses.connectivity import Connectivity
from lottery.analyses.early_bird import EarlyBird
from lottery.analyses.sensitivity import Sensitivity
from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.reports.folder import write
from lottery.reports.results import read
from lottery.rounds.early_bird import Settled
from lottery.rounds.round import Round, dense_round
from lottery.rounds.study import Cell
from lottery.running.launch import run_cell
from lottery.store.ledger import Ledger
from lottery.store.phases import phase_of
from lottery.training.fit import fit
from lottery.training.lightning.project import Project
from lottery.training.phase import Trained
from lottery.training.states import State
from tests.lightning import ADVICE, cell_of, differing
from tests.rows import LitRows, Rows

pytestmark = ADVICE


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def line_of(*more: str, model: str = "LitRows") -> list[str]:
    words = [f"model._target_=tests.rows.{model}", "data._target_=tests.rows.Rows", "budget.steps=2ep"]
    headline = [] if any(word.startswith("headline=") for word in more) else ["headline=error"]
    return [*words, *headline, "tracking.mode=disabled", "hardware=cpu", "schedule.rounds=1", *more]


@cache  # composing takes longer than training
def rows(*more: str, model: str = "LitRows") -> Cell:
    return build(cell_configs(line_of(*more, model=model))[0])


def training(cell: Cell) -> Callable[[Round], Trained]:
    return lambda current: fit(cell.study.recipe, phase_of(cell.study.recipe, cell.seed, current))


def dense_of(cell: Cell) -> Round:
    return dense_round(cell.study.recipe, cell.seed, training(cell))


def plainly_measured(state: State, part: str) -> dict[str, float]:
    """What plain Lightning logs for a state of LitRows."""
    module = LitRows()
    module.load_state_dict(state)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, **quiet)
    run = trainer.validate if part == "val" else trainer.test
    run(module, datamodule=Rows(), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_line_of_a_project_goes_through_what_plain_lightning_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = rows()
    dense = dense_of(cell)
    monkeypatch.setattr(Project, "with_statistics", lambda self, state, *_: state)
    line = Connectivity(points=3)(cell, dense)
    ends = [replace(dense, copy=copy).trained.state for copy in (0, 1)]
    assert differing(*ends)
    middle = {name: (one + ends[1][name]) / 2 if one.is_floating_point() else one for name, one in ends[0].items()}
    found = [point["test_error"] for point in line["line"]]
    for state, value in zip((ends[0], middle, ends[1]), found, strict=True):
        assert value == pytest.approx(plainly_measured(state, "test")["test/error"], abs=1e-6)
    assert line["barrier"] == round(max(0, max(found) - (found[0] + found[2]) / 2), 9)  # of an error, a rise
    assert line["steps_together"] == 0


def test_the_dense_training_of_a_project_parts_at_the_rewinding_point() -> None:
    cell = rows("arm.rewind=3it", "schedule.rounds=0")
    assert Connectivity(points=3)(cell, dense_of(cell))["steps_together"] == 3


def test_a_metric_that_is_no_number_ends_no_analysis() -> None:
    cell = rows("headline=score", "better=higher", model="LitLost")
    dense = dense_of(cell)
    line = Connectivity(points=3)(cell, dense)
    assert line["barrier"] is None
    assert {point["test_score"] for point in line["line"]} == {None}
    found = Sensitivity(shares=(0.5,))(cell, dense)
    assert found["val_score"] is None
    assert found["tolerated"] == 1.0
    json.dumps([line, found], allow_nan=False)


def seen_by(recipe: Project, layer: str, seen: list[tuple[bool, bool, Tensor]]) -> Project:
    """The recipe of a module that notes the modes, and what a layer is given, when its training_step runs."""

    def network() -> nn.Module:
        module = recipe.network()
        drop = next(each for each in module.modules() if isinstance(each, nn.Dropout))
        norm = module.get_submodule(layer)
        norm.register_forward_pre_hook(
            lambda _, inputs: seen.append((norm.training, drop.training, inputs[0].detach()))
        )
        return module

    return replace(recipe, network=network)


def test_statistics_of_a_project_are_means_over_batches_of_its_training_step() -> None:
    cell, seen = rows(), list[Any]()
    state = dense_of(cell).trained.state
    recipe = seen_by(cell.study.recipe, "net.5", seen)
    found = recipe.with_statistics(state, 40, 3, 5)
    assert [(norm, drop, len(inputs)) for norm, drop, inputs in seen] == [(True, False, 8)] * 5
    inputs = [each.double() for *_, each in seen]
    expected = {
        "net.5.running_mean": torch.stack([each.mean(0) for each in inputs]).mean(0),
        "net.5.running_var": torch.stack([each.var(0) for each in inputs]).mean(0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
    assert int(found["net.5.num_batches_tracked"]) == 5
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert differing(found, state) == sorted(f"net.{layer}.{kind}" for layer in (1, 5) for kind in kinds)
    assert not differing(recipe.with_statistics(state, 40, 3, 5), found)
    assert differing(recipe.with_statistics(state, 40, 4, 5), found)  # other batches, other noise
    seen.clear()
    recipe.with_statistics(state, 3, 3, 5)  # whole batches, and at least one
    assert len(seen) == 1
    seen.clear()
    recipe.with_statistics(state, 5000, 3, 5)  # an epoch at most
    assert len(seen) == 8


@pytest.mark.slow
def test_statistics_do_not_depend_on_workers() -> None:
    cell = rows("schedule.rounds=0")
    state = dense_of(cell).trained.state
    alone = cell.study.recipe.with_statistics(state, 40, 3, 5)
    assert not differing(rows("data.workers=2").study.recipe.with_statistics(state, 40, 3, 5), alone)


def test_layers_that_a_project_freezes_keep_their_statistics() -> None:
    cell = rows(model="LitFrozen")
    state = dense_of(cell).trained.state
    found = cell.study.recipe.with_statistics(state, 40, 3, 5)
    assert {name.rpartition(".")[0] for name in differing(found, state)} == {"net.5"}


def test_a_network_without_batchnorm_is_asked_for_no_batch() -> None:
    cell = cell_of("segmenter")
    state = dense_of(cell).ticket.state
    assert cell.study.recipe.with_statistics(state, 40, 3, 5) is state


def test_layers_of_a_project_alone_are_worth_what_plain_lightning_measures() -> None:
    cell = rows("schedule.rounds=0")
    dense = dense_of(cell)
    found = Sensitivity(shares=(0.5, 0.1), drop=0.05)(cell, dense)
    state = dense.trained.state
    worth = partial(plainly_measured, part="val")
    assert found["val_error"] == pytest.approx(worth(state)["val/error"], abs=1e-6)
    assert [each["layer"] for each in found["layers"]] == ["net.0.weight", "net.4.weight", "net.7.weight"]
    for each in found["layers"]:
        weight = state[each["layer"]]
        for point in each["shares"]:
            count = round(point["share"] * weight.numel())
            least = weight.abs().flatten().sort(descending=True).values[count - 1]
            alone = state | {each["layer"]: weight * (weight.abs() >= least)}
            assert point["val_error"] == pytest.approx(worth(alone)["val/error"], abs=1e-6)
        losses = [point["val_error"] - found["val_error"] for point in each["shares"]]  # of an error, less is better
        within = [point["kept"] for point, loss in zip(each["shares"], losses, strict=True) if loss <= 0.05 + 1e-9]
        assert each["tolerated"] == (min(within) if losses[0] <= 0.05 + 1e-9 else 1.0)


def test_masks_of_a_project_settle() -> None:
    cell = rows()
    dense = dense_of(cell)
    found = EarlyBird(Settled(every=4, threshold=1.0, window=2))(cell, replace(dense, index=1))
    assert [each["step"] for each in found["distances"]] == [8, 12]
    assert found["settled_step"] == 12
    assert any(each["distance"] for each in found["distances"])


@pytest.mark.slow
def test_a_run_with_all_analyses_and_its_report(tmp_path: Path) -> None:
    analyses = ["analysis=[connectivity,sensitivity,early_bird]", "analysis.connectivity.points=3"]
    more = [
        "analysis.sensitivity.shares=[0.5]",
        "analysis.early_bird.when.every=4",
        "analysis.early_bird.when.window=1",
    ]
    [job] = cell_configs(line_of(*analyses, *more, f"out={tmp_path}/runs"))
    run_cell(job)
    ledger = Ledger(job.folder / "ledger.jsonl").lines()
    assert [line["round"] for line in ledger] == [0, 1]
    for name in ("connectivity", "sensitivity", "early_bird"):
        assert [line["round"] for line in Ledger(job.folder / f"{name}.jsonl").lines()] == [0, 1]
    write(read(job.folder), tmp_path / "report")
    assert (tmp_path / "report" / "sensitivity.png").stat().st_size > 1000
    text = (tmp_path / "report" / "report.md").read_text()
    assert "barrier" in text
    [setting] = [word for word in text.split("'") if word.startswith("+scope.layers=")] or [None]
    if setting:
        rows("scope=rates", setting)
