"""Training that changes its masks: store, ledger and rounds use the final ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lottery.algorithm import play
from lottery.commands.ticket.export import exported
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest
from lottery.pruning.masks import Masks, apply_
from lottery.rounds.study import Cell
from lottery.running.cell import TrainOnce, record_cell
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.keeper import FolderKeeper
from lottery.store.ledger import Ledger
from lottery.store.tickets import read
from lottery.training.phase import Phase, Trained
from lottery.training.states import State
from tests.conftest import TINY

WEIGHTS, PARAMETERS = 64 * 300 + 300 * 100 + 100 * 10, 64 * 300 + 300 * 100 + 100 * 10 + 300 + 100 + 10


def every(number: int, masks: Masks) -> Masks:
    """Masks of the same shapes that keep one weight in `number`, whatever was kept before."""
    return {name: (torch.arange(mask.numel()) % number == 0).view(mask.shape) for name, mask in masks.items()}


def under(state: State, masks: Masks) -> State:
    state = {name: tensor.clone() for name, tensor in state.items()}
    apply_(state, masks)
    return state


def fit(recipe: object, phase: Phase, keeper: FolderKeeper, waypoints: Any, watch: object, **_: object) -> Trained:
    """Stands in for training: has a quarter of the weights at intermediate steps, and half of them at the end."""
    for step in waypoints:
        keeper.pass_by(step, under(phase.state, every(4, phase.masks)), every(4, phase.masks))
    keeper.reach(phase.first, phase.last)
    measured = {f"{part}_{what}": 0.5 for part in ("val", "test") for what in ("loss", "accuracy", "top5")}
    half = every(2, phase.masks)
    return Trained(under(phase.state, half), half, [{"step": phase.last, "train_loss": 0.5, **measured}])


@pytest.fixture
def changing(cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A cell whose trainings change masks, and whose rounds rewind to step 10."""
    monkeypatch.setattr("lottery.running.cell.fit", fit)
    return cell("arm.rewind=10it")


def test_the_ledger_and_the_store_have_the_masks_that_training_ended_with(changing: Cell, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    record_cell(changing, tmp_path, store)
    lines = Ledger(tmp_path / NAME).lines()
    assert len(lines) == 3
    for line in lines:
        assert line["density"] == 0.5
        assert line["layer_densities"] == {"fc1.weight": 0.5, "fc2.weight": 0.5, "output.weight": 0.5}
        assert line["compression_ratio"] == PARAMETERS / (PARAMETERS - WEIGHTS / 2)
        entry = store.find(line["phase"])
        assert entry
        assert digest(entry.masks) == digest(every(2, entry.masks))
    # FLOPs are of the masks that each round began with
    assert [line["train_flops"] / line["train_flops_dense"] for line in lines[:1]] == [1.0]
    before = (tmp_path / NAME).read_bytes()
    record_cell(changing, tmp_path, Store(tmp_path / "store"))  # from the store, where nothing is trained again
    assert (tmp_path / NAME).read_bytes() == before


def test_a_round_gives_the_next_one_the_masks_that_training_ended_with(changing: Cell, tmp_path: Path) -> None:
    study = changing.study
    for _ in range(2):  # trained, and found in the store
        rounds = list(play(study.recipe, study.pruning, changing.arm, 0, TrainOnce(changing, Store(tmp_path))))
        for current in rounds:
            assert digest(current.trained.masks) == digest(every(2, current.ticket.masks))
            assert digest(current.trained.masks) != digest(current.ticket.masks)


def test_a_chain_ends_by_the_density_that_its_ledger_shows(
    changing: Cell, cell: Callable[..., Cell], tmp_path: Path
) -> None:
    stopping = cell("arm.rewind=10it", "stop.density=0.45")  # tickets keep 40 %, trained networks 50 %
    record_cell(stopping, tmp_path, Store(tmp_path / "store"))
    assert [line.get("stopped") for line in Ledger(tmp_path / NAME).lines()] == [None, None, None]
    stopping = cell("arm.rewind=10it", "stop.density=0.5")
    record_cell(stopping, tmp_path / "second", Store(tmp_path / "store"))
    said = "density 0.5 is within stop.density=0.5"
    assert [line.get("stopped") for line in Ledger(tmp_path / "second" / NAME).lines()] == [None, said]


@pytest.mark.parametrize("arm", [["arm=one_shot"], ["arm=early_bird", "arm.early.every=10", "arm.early.window=1"]])
def test_nothing_comes_back_that_the_dense_training_has_pruned(
    arm: list[str], changing: Cell, cell: Callable[..., Cell], tmp_path: Path
) -> None:
    shot = cell(*arm, "criterion=random", "schedule.keep=0.4")
    study = shot.study
    for current in list(play(study.recipe, study.pruning, shot.arm, 0, TrainOnce(shot, Store(tmp_path))))[1:]:
        alive = every(2, current.ticket.masks)
        assert not any((mask & ~alive[name]).any() for name, mask in current.ticket.masks.items())


def test_an_exported_ticket_says_what_its_own_masks_keep(changing: Cell, tmp_path: Path) -> None:
    [job] = cell_configs([*TINY, "hardware.accelerator=cpu", f"out={tmp_path}"])
    run_cell(job)
    saved = exported(job.folder, 0, tmp_path / "t.safetensors", seed_only=False)
    saved.write()
    assert read(saved.path).info["line"]["density"] == 1.0
    assert Ledger(job.folder / NAME).lines()[0]["density"] == 0.5


def test_a_step_that_is_passed_by_keeps_the_masks_of_that_step(changing: Cell, tmp_path: Path) -> None:
    study = changing.study
    dense = next(play(study.recipe, study.pruning, changing.arm, 0, TrainOnce(changing, Store(tmp_path))))
    assert dense.trained.rows
    passed = dense.cut(10).trained
    assert passed.rows == []  # else it was trained by itself
    assert digest(passed.masks) == digest(every(4, dense.ticket.masks))
