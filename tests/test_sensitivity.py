"""Sensitivity: one layer alone is pruned, what that costs, and the rates that follow from it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lottery.algorithm import play
from lottery.analyses.sensitivity import Sensitivity, alone, of_units, rates, tolerated, units
from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.config.recorded import load
from lottery.foundations.errors import Refused
from lottery.pruning.channels.coupling import coupled
from lottery.pruning.channels.masking import alive
from lottery.pruning.channelwise import channels
from lottery.pruning.contracts import Evidence, Scores, Target
from lottery.pruning.masks import dense, density, kept, prunable
from lottery.pruning.scopes import rates as rates_scope
from lottery.pruning.structures import rows, weights
from lottery.reports.folder import write
from lottery.reports.results import read
from lottery.reports.sensitivity import LEDGER, curves, sensitivity_rows, sensitivity_text
from lottery.reports.sensitivity import rates as report_rates
from lottery.rounds.arms import Arm, Given
from lottery.running.cell import TrainOnce
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.ledger import Ledger
from lottery.training.flops import Flops
from tests.channels import mlp
from tests.conftest import TINY

SETTINGS = [*TINY, "analysis=sensitivity", "analysis.sensitivity.shares=[0.5,0.02]", "schedule.rounds=1"]


def test_one_layer_alone_loses_its_lowest_weights() -> None:
    masks = {name: torch.ones(4, dtype=torch.bool) for name in ("one", "two")}
    masks["one"][3] = False
    scores = {name: torch.tensor([1.0, 3.0, 2.0, 9.0]) for name in masks}
    target = Target(1.0, 1.0)
    assert units(weights, scores, masks, target) == {"one": 3, "two": 4}
    found = alone(weights, "one", 2 / 3, scores, masks, target)
    assert [mask.tolist() for mask in found.values()] == [[False, True, True, False], [True] * 4]
    found = alone(weights, "two", 0.01, scores, masks, target)  # the last one stays
    assert [mask.tolist() for mask in found.values()] == [[True, True, True, False], [False, False, False, True]]


@pytest.mark.parametrize("budget", ["weights", "flops", "channels"])
def test_channels_of_one_layer_alone(budget: str) -> None:
    network = mlp()
    masks = dense(prunable(network))
    scores = {name: weight.detach().abs() for name, weight in prunable(network).items()}
    found = coupled(network, lambda net: net(torch.zeros(1, 4)))
    target = Target(1.0, 1.0, channels=lambda: found)
    structure = of_units(partial(channels, budget=budget))
    assert units(structure, scores, masks, target) == {"0.weight": 4, "2.weight": 3}
    pruned = alone(structure, "0.weight", 0.5, scores, masks, target)
    assert alive(found, pruned) == {"0.weight": [1, 2], "2.weight": [0, 1, 2]}
    pruned = alone(structure, "2.weight", 0.4, scores, masks, target)
    assert alive(found, pruned) == {"0.weight": [0, 1, 2, 3], "2.weight": [0]}


def test_rows_of_one_layer_alone() -> None:
    network = mlp()
    masks = dense(prunable(network))
    scores = {name: weight.detach().abs() for name, weight in prunable(network).items()}
    assert of_units(rows) is rows
    assert units(rows, scores, masks, Target(1.0, 1.0)) == {"0.weight": 4, "2.weight": 3, "4.weight": 2}
    found = alone(rows, "0.weight", 0.25, scores, masks, Target(1.0, 1.0))
    assert found["0.weight"].all(1).tolist() == [False, True, False, False]
    assert found["2.weight"].all()


@pytest.mark.parametrize(
    ("losses", "least"),
    [
        ([0.0, 0.0, 0.0], 0.2), ([0.02, 0.0, 0.0], 1.0), ([0.01, 0.02, 0.0], 0.8), ([-1.0, 0.01, 0.011], 0.5),
        ([0.0, None, 0.0], 0.8), ([None, None, None], 1.0),
    ],
)  # fmt: skip
def test_the_lowest_share_that_is_tolerated_with_all_above_it(losses: list[float | None], least: float) -> None:
    assert tolerated([0.8, 0.5, 0.2], losses, 0.01) == least


sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1)


@given(sizes, st.data())
def test_rates_keep_what_the_schedule_asks_for(sizes: dict[str, int], data: st.DataObject) -> None:
    least = {layer: data.draw(st.sampled_from([1.0, 0.8, 0.4, 0.1])) for layer in sizes}
    found = rates(least, sizes)
    if not found:
        assert set(least.values()) == {1.0}
        return
    assert sum(found[layer] * size for layer, size in sizes.items()) == pytest.approx(sum(sizes.values()), rel=1e-4)
    assert {layer for layer, rate in found.items() if rate == 0} == {n for n, share in least.items() if share == 1}


def test_a_scope_takes_the_rates() -> None:
    masks = {"fc1.weight": torch.ones(1000, dtype=torch.bool), "fc2.weight": torch.ones(500, dtype=torch.bool)}
    found = rates({"fc1.weight": 0.2, "fc2.weight": 0.8}, {name: len(mask) for name, mask in masks.items()})
    scores = {name: torch.rand(len(mask)) for name, mask in masks.items()}
    after = rates_scope(scores, masks, Target(0.6, 0.6), layers=found)
    assert density(after) == pytest.approx(0.6, abs=1e-3)
    assert kept({"": after["fc1.weight"]}) == 1000 - round(0.4 * 1000 * 0.8 / 0.6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shares": []}, r"^shares=\[\]: must fall strictly, inside \(0, 1\)$"),
        ({"shares": [0.5, 0.5]}, r"^shares=\[0\.5, 0\.5\]: must fall"),
        ({"shares": [1.0]}, r"^shares=\[1\.0\]: must fall"),
        ({"drop": -0.1}, r"^drop=-0\.1: must be 0 or more$"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sensitivity(**settings)


def test_n_of_m_is_refused_before_training(tmp_path: Path) -> None:
    words = [
        f"out={tmp_path}",
        "analysis=sensitivity",
        "structure=n_of_m",
        "schedule=explicit",
        "schedule.densities=[0.5]",
    ]
    (job,) = cell_configs(["data=digits", *words])
    with pytest.raises(Refused, match=r"^analysis\.sensitivity: goes without structure=n_of_m, which prunes all"):
        run_cell(job)


def test_shares_are_those_that_a_structure_keeps(tmp_path: Path) -> None:
    """Channels in multiples of 64: of 300 neurons at least 64 stay, of 100 as well, whatever share is asked for."""
    channels = ["structure=channels", "structure.multiple=64", "arm=finetune", "criterion=movement"]
    settings = [*SETTINGS, *channels, "analysis.sensitivity.shares=[0.5,0.1]", "analysis.sensitivity.drop=1"]
    (job,) = cell_configs([*settings, "schedule.rounds=0", f"out={tmp_path}"])
    run_cell(job)
    (line,) = Ledger(job.folder / LEDGER).lines()
    found = {each["layer"]: [point["kept"] for point in each["shares"]] for each in line["layers"]}
    assert found == {"fc1.weight": pytest.approx([128 / 300, 64 / 300]), "fc2.weight": pytest.approx([0.64, 0.64])}
    assert {each["layer"]: each["tolerated"] for each in line["layers"]} == {
        "fc1.weight": pytest.approx(64 / 300),
        "fc2.weight": pytest.approx(0.64),
    }


def test_criteria_that_compare_see_the_rewinding_point(tmp_path: Path) -> None:
    (job,) = cell_configs([*SETTINGS, "arm.rewind=10", f"out={tmp_path}"])
    cell, seen = build(job), []

    def movement(evidence: Evidence) -> Scores:
        seen.append(evidence.start)
        return {name: weight.detach().abs() for name, weight in evidence.weights.items()}

    cell = replace(cell, study=replace(cell.study, pruning=replace(cell.study.pruning, criterion=movement)))
    train = TrainOnce(cell, Store(tmp_path / "store"))
    dense = next(play(cell.study.recipe, cell.study.pruning, cell.arm, 0, train))
    Sensitivity(shares=(0.5,))(cell, dense)
    (found,) = seen
    assert found["fc1.weight"].equal(dense.cut(10).trained.state["fc1.weight"])
    assert not found["fc1.weight"].equal(dense.ticket.state["fc1.weight"])
    ticket = Arm("ticket", given=Given({}, {}, Flops()))  # with which the dense training did not begin
    Sensitivity(shares=(0.5,))(replace(cell, arm=ticket), dense)
    assert seen[1]["fc1.weight"].equal(dense.ticket.state["fc1.weight"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (job,) = cell_configs([*SETTINGS, f"out={tmp_path_factory.mktemp('runs')}", "budget.steps=200"])
    run_cell(job)
    return job.folder


def test_an_analysis_of_a_run(ran: Path) -> None:
    lines = Ledger(ran / "sensitivity.jsonl").lines()
    assert [line["round"] for line in lines] == [0, 1]
    assert [each["layer"] for each in lines[0]["layers"]] == ["fc1.weight", "fc2.weight", "output.weight"]
    assert [each["size"] for each in lines[0]["layers"]] == [19_200, 30_000, 1000]
    assert (lines[1]["layers"], lines[1]["rates"]) == ([], {})  # of the dense network alone
    (job,) = cell_configs([*SETTINGS, "budget.steps=200"])
    data = build(job).study.recipe.data
    for line in lines[:1]:
        net, masks = load(ran, line["round"])
        accuracy = partial(accuracy_of, net, *next(iter(data.evaluation("val", len(data.val)))))
        whole = accuracy()
        assert line["val_accuracy"] == pytest.approx(whole, abs=1e-6)
        for each in line["layers"]:
            weight = net.get_parameter(each["layer"])
            own = weight.detach().clone()
            for point in each["shares"]:
                count = round(point["share"] * each["size"])
                least = own.abs()[masks[each["layer"]]].sort(descending=True).values[count - 1]
                weight.data = own * (own.abs() >= least)
                assert point["val_accuracy"] == pytest.approx(accuracy(), abs=1e-6)
                weight.data = own
            losses = [line["val_accuracy"] - point["val_accuracy"] for point in each["shares"]]
            assert each["tolerated"] == tolerated([0.5, 0.02], losses, 0.01)
        shares = {each["layer"]: each["tolerated"] for each in line["layers"]}
        assert line["rates"] == rates(shares, {each["layer"]: each["size"] for each in line["layers"]})


@pytest.fixture(scope="module")
def reported(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(read(ran), folder)
    return folder


def test_the_report_has_a_figure_a_table_and_the_setting_of_a_scope(reported: Path, ran: Path) -> None:
    line = Ledger(ran / "sensitivity.jsonl").lines()[0]
    for suffix in ("png", "svg", "pdf"):
        assert (reported / f"sensitivity.{suffix}").stat().st_size > 1000
    with open(reported / "tables" / "sensitivity.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["layer", "units", "1", "0.5", "0.02", "tolerated", "rate"]
    for row, each in zip(rows, line["layers"], strict=True):
        assert row[:2] == [each["layer"], f"{each['size']:,}"]
        values = [line["val_accuracy"], *(point["val_accuracy"] for point in each["shares"])]
        assert row[2:5] == [f"{value:.4f} (n = 1)" for value in values]
        assert row[5:] == [f"{each['tolerated']:.3g}", f"{line['rates'].get(each['layer'], 0):.3g}"]
    text = (reported / "report.md").read_text()
    [setting] = re.findall(r"`scope=rates '(\+scope\.layers=\{\S+\})'` prunes by these rates, in rounds that", text)
    (job,) = cell_configs(["data=digits", "scope=rates", setting])
    layers = build(job).study.pruning.scope.keywords["layers"]
    assert layers == pytest.approx({name: float(f"{rate:.3g}") for name, rate in line["rates"].items()})


def test_seeds_are_averaged_and_a_frame_without_ledgers_has_no_curves(ran: Path, tmp_path: Path) -> None:
    """The dense round of two seeds: 0.9 and 0.8 whole, 0.7 and 0.5 at half of a layer, which tolerates 0.5 and 1."""
    frame = read(ran)
    rounds = []
    for seed, (whole, half, least, rate) in enumerate([(0.9, 0.7, 0.5, {"fc": 1.0}), (0.8, 0.5, 1.0, {})]):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        layer = {
            "layer": "fc",
            "size": 7,
            "shares": [{"share": 0.5, "kept": 4 / 7, "val_accuracy": half}],
            "tolerated": least,
        }
        line = {"study": "s", "arm": "imp", "seed": seed, "round": 0, "rounds": 0, "density": 1.0}
        line |= {"val_accuracy": whole, "layers": [layer], "rates": rate, "run": {}}
        (folder / LEDGER).write_text(json.dumps(line) + "\n")
        rounds.append(frame[frame["round"] == 0].assign(**{"seed": seed, "run/ledger": str(folder / "ledger.jsonl")}))
    lost = frame[frame["round"] == 0].assign(seed=2)  # of a seed whose metric is no finite number
    (tmp_path / "seed2").mkdir()
    line |= {"seed": 2, "layers": [{**layer, "shares": [{"share": 0.5, "kept": 4 / 7, "val_accuracy": None}]}]}
    (tmp_path / "seed2" / LEDGER).write_text(json.dumps(line | {"val_accuracy": None}) + "\n")
    lost["run/ledger"] = str(tmp_path / "seed2" / "ledger.jsonl")
    assert curves(pd.concat([*rounds, lost]))["mean"].tolist() == pytest.approx([0.85, 0.6])
    both = pd.concat(rounds)
    assert report_rates(both) == {"fc": 1.0}  # of the seed that has rates
    found = curves(both)
    assert found[["layer", "share", "kept", "n"]].to_numpy().tolist() == [["fc", 1.0, 1.0, 2], ["fc", 0.5, 4 / 7, 2]]
    assert found["mean"].tolist() == pytest.approx([0.85, 0.6])
    assert found["half"].tolist() == pytest.approx([0.05 * 12.7062, 0.1 * 12.7062], rel=1e-4)  # Student's t, 1 degree
    assert sensitivity_rows(both)[1][-2:] == ["0.75", "1"]
    assert not len(curves(both.drop(columns="run/ledger")))
    assert sensitivity_text(both.drop(columns="run/ledger")) == ""


def accuracy_of(net: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((net.eval()(inputs).argmax(1) == targets).float().mean())


def load_masks(folder: Path) -> dict[str, torch.Tensor]:
    _, masks = load(folder, 1)
    return masks
