"""Early-bird tickets: when a mask has settled, and which network is pruned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lottery import algorithm as chains
from lottery.analyses.early_bird import EarlyBird
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.config.groups import CONF
from lottery.config.recorded import phase
from lottery.foundations.digests import digest
from lottery.pruning import masks as _masks
from lottery.pruning.contracts import Evidence, Scores
from lottery.rounds.early_bird import Settled, distance
from lottery.rounds.round import Round, dense_round
from lottery.rounds.study import Cell
from lottery.running.cell import TrainOnce
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from tests.conftest import TINY

LOOKS = ("arm.early.every=10", "arm.early.window=2", "arm.early.threshold=0.2")


def mask(*bits: int) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(bits, dtype=torch.bool)}


def test_distance_is_the_share_of_kept_weights_that_differ() -> None:
    assert distance(mask(1, 1, 0, 0), mask(1, 1, 0, 0)) == 0
    assert distance(mask(1, 1, 0, 0), mask(0, 0, 1, 1)) == 1
    assert distance(mask(1, 1, 1, 1), mask(1, 1, 1, 0)) == pytest.approx(1 / 7)
    assert distance(mask(0, 0), mask(0, 0)) == 1


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4))
def test_settled_is_the_first_look_with_a_whole_window_below(distances: list[float], window: int) -> None:
    numbered = [(10 * number, value) for number, value in enumerate(distances, start=2)]
    ends = [
        numbered[end - 1][0]
        for end in range(window, len(numbered) + 1)
        if all(value < 0.1 for _, value in numbered[end - window : end])
    ]
    assert Settled(every=10, window=window).step(numbered) == (ends[0] if ends else None)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"every": 0}, "every=0: must be at least 1 step"),
        ({"every": 1, "threshold": 0.0}, r"threshold=0: must lie in \(0, 1\]"),
        ({"every": 1, "window": 0}, "window=0: must be at least 1"),
    ],
)
def test_bad_settings(setting: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settled(**setting)


def job(folder: Path, *more: str) -> CellConfig:
    small = ("budget.steps=60", "budget.evaluate=30", "tracking.mode=disabled", "hardware.accelerator=cpu")
    return cell_configs([*TINY, *small, "schedule.rounds=3", f"out={folder}", *more])[0]


def test_each_density_is_cut_as_it_was_watched(tmp_path: Path) -> None:
    own = job(tmp_path, "arm=early_bird", *LOOKS, "analysis=early_bird", "analysis.early_bird.when.every=10",
              "analysis.early_bird.when.window=2", "analysis.early_bird.when.threshold=0.2")  # fmt: skip
    run_cell(own)
    cell = build(own)
    lines = Ledger(own.folder / NAME).lines()
    found = [json.loads(line) for line in (own.folder / "early_bird.jsonl").read_text().splitlines()]
    dense = dense_round(cell.study.recipe, cell.seed, TrainOnce(cell, Store(own.config["store"])))
    for line, watched in zip(lines[1:], found[1:], strict=True):
        step = watched["settled_step"]
        assert step in range(20, 60, 10)
        kept = phase(own.folder, line["round"]).masks
        state = dense.cut(step).trained.state
        keep = cell.study.pruning.schedule[line["round"] - 1].density
        for name, layer in kept.items():  # the rates of this scope: the output layer at half of it
            rate = (1 - keep) * (0.5 if name == list(kept)[-1] else 1)
            count = layer.numel() - round(round(rate * layer.numel(), 9))
            assert int(layer.sum()) == count
            weights = state[name].abs()
            assert weights[layer].min() >= weights[~layer].max()
        flops = cell.study.recipe.flops(_masks.dense(_masks.prunable(cell.study.recipe.net)))
        assert line["total_flops_dense"] == pytest.approx(flops.dense * (step + 60))
    assert {line["settled_step"] for line in found[1:]} != {None}


def test_criteria_that_compare_see_the_arm_s_rewinding_point(tmp_path: Path) -> None:
    cell, seen = build(job(tmp_path, "arm.rewind=20")), []

    def movement(evidence: Evidence) -> Scores:
        seen.append(evidence.start)
        return {name: weight.detach().abs() for name, weight in evidence.weights.items()}

    cell = replace(cell, study=replace(cell.study, pruning=replace(cell.study.pruning, criterion=movement)))
    train = TrainOnce(cell, Store(tmp_path / "store"))
    dense = next(chains.play(cell.study.recipe, cell.study.pruning, cell.arm, 0, train))
    EarlyBird(Settled(every=30))(cell, replace(dense, index=1))
    (found,) = seen
    assert found["fc1.weight"].equal(dense.cut(20).trained.state["fc1.weight"])
    assert not found["fc1.weight"].equal(dense.ticket.state["fc1.weight"])


def test_the_ticket_is_digested_once_for_all_looks(
    cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested: list[object] = []
    monkeypatch.setattr("lottery.store.phases.digest", lambda tensors: digested.append(tensors) or digest(tensors))
    play = TrainOnce(cell(), Store(tmp_path))
    dense = dense_round(play.cell.study.recipe, 0, play, passing=(5, 10, 15, 20))
    assert dense.trained.rows
    assert len(digested) == 2  # weights and masks


def test_the_looks_are_kept_in_passing(tmp_path: Path) -> None:
    own = job(tmp_path, "arm=early_bird", *LOOKS)
    run_cell(own)
    executed = sum(meta["executed"] for meta in Store(own.config["store"]).entries().values())
    assert executed == 60 * 4  # round 0 and three rounds; nothing a second time


@pytest.mark.parametrize("child", ["finetune_parent", "scratch_e"])
def test_a_control_begins_and_pays_where_its_parent_was_cut(tmp_path: Path, child: str) -> None:
    yaml = tmp_path / "c" / "arm" / "early.yaml"
    yaml.parent.mkdir(parents=True)
    looks = "every: 10it, threshold: 0.2, window: 2"
    yaml.write_text((CONF / "arm/early_bird.yaml").read_text().replace("every: 1ep, threshold: 0.1, window: 5", looks))

    def rounds(*arm: str) -> list[Round]:
        cell = build(own := job(tmp_path, *arm, "--config-dir", str(yaml.parents[1])))
        phases = TrainOnce(cell, Store(own.config["store"]))
        return list(chains.play(cell.study.recipe, cell.study.pruning, cell.arm, cell.seed, phases))

    parents, controls = rounds("arm=early"), rounds(f"arm={child}", "arm.parent=early")
    for parent, control in zip(parents[1:], controls[1:], strict=True):
        assert digest(parent.ticket.masks) == digest(control.ticket.masks)
        assert parent.before == control.before
        assert (digest(parent.ticket.state) == digest(control.ticket.state)) == (child == "finetune_parent")
    whole = build(job(tmp_path)).study.recipe.flops(parents[0].ticket.masks) * 60
    assert 0 < parents[1].before.dense < whole.dense  # it was cut


def test_with_a_parent_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="early: is for arms that prune the dense network themselves"):
        build(job(tmp_path, "arm=early_bird", "arm.parent=imp"))
