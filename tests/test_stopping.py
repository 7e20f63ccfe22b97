"""Stopping: a chain ends with the first round that meets a condition, and so do chains of dependent arms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.reports.results import missing, read
from lottery.rounds.round import dense_round
from lottery.rounds.stopping import Stop, stop_reason
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.folder import CONFIG, NAME
from lottery.store.ledger import Ledger
from lottery.training.phase import Trained
from tests.conftest import TINY

ACCURACY = Headline.named("accuracy")
HALVES = (*TINY, "schedule.rounds=4", "schedule.keep=0.5", "scope.output=1")  # densities 1, 1/2, 1/4, 1/8, 1/16


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., CellConfig]:
    return lambda *overrides: cell_configs([*HALVES, f"out={tmp_path}/runs", *overrides])[0]


def ledger(job: CellConfig) -> list[dict[str, Any]]:
    return Ledger(job.folder / NAME).lines()


def trained(job: CellConfig) -> int:
    return len(Store(job.config["store"]).entries())


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("it trained")

    return lambda: monkeypatch.setattr(pl.Trainer, "fit", fit)


def test_reasons_at_the_edge() -> None:
    density, below = Stop(density=0.25), Stop(below_dense=0.25)
    assert density.reason(0.2500001, {}, {}, ACCURACY) is None
    assert density.reason(0.25, {}, {}, ACCURACY) == "density 0.25 is within stop.density=0.25"
    dense = {"val_accuracy": 0.75, "test_accuracy": 1.0}
    assert below.reason(0.01, {"val_accuracy": 0.5, "test_accuracy": 0.0}, dense, ACCURACY) is None
    said = "val_accuracy 0.4375 is more than stop.below_dense=0.25 below the dense network's 0.75"
    assert below.reason(0.9, {"val_accuracy": 0.4375, "test_accuracy": 1.0}, dense, ACCURACY) == said
    assert below.reason(0.9, {"val_accuracy": 1.0}, dense, ACCURACY) is None
    assert Stop().reason(1e-9, {}, {}, ACCURACY) is None


def test_a_floor_and_sizes_at_the_edge() -> None:
    floor = Stop(floor=0.5)
    assert floor.reason(0.1, {"val_accuracy": 0.5}, {}, ACCURACY) is None
    assert floor.reason(0.1, {"val_accuracy": 0.4999}, {}, ACCURACY) == "val_accuracy 0.4999 is below stop.floor=0.5"
    assert floor.reason(0.1, {"val_accuracy": None}, {}, ACCURACY) is None
    assert (
        Stop(floor=0.5).reason(0.1, {"val_loss": 0.6}, {}, Headline.named("loss"))
        == "val_loss 0.6 is above stop.floor=0.5"
    )
    for name, other in (("parameters", "flops"), ("flops", "bytes"), ("bytes", "parameters")):
        stop, costs = Stop(**{name: 64_000}), {name: 64_000, other: 1}
        assert stop.reason(0.1, {}, {}, ACCURACY, costs.get) == f"64,000 {name} are within stop.{name}=64000"
        assert stop.reason(0.1, {}, {}, ACCURACY, {name: 64_001, other: 1}.get) is None
    with pytest.raises(ValueError, match=r"^bytes=0: must be more than 0$"):
        Stop(bytes=0)


def test_the_first_round_that_is_small_enough_is_the_last(tmp_path: Path) -> None:
    asked = ("schedule.rounds=4", "schedule.keep=0.5", "structure=channels", "scope=layerwise", "stop.parameters=10000")
    (chain,) = cell_configs([*TINY, *asked, f"out={tmp_path}"])
    run_cell(chain)
    left = []
    for line in ledger(chain):
        first, second, third = line["layer_densities"].values()
        one, two = round(300 * first), round(100 * third)  # neurons of the hidden layers
        assert second == pytest.approx(one * two / 30_000)
        left.append(64 * one + one + one * two + two + 10 * two + 10)
    assert left[0] == 64 * 300 + 300 + 300 * 100 + 100 + 10 * 100 + 10
    assert left[-2] > 10_000 >= left[-1]
    assert len(left) < 5
    assert ledger(chain)[-1]["stopped"] == f"{left[-1]:,} parameters are within stop.parameters=10000"


@pytest.mark.parametrize("size", ["parameters", "flops", "bytes"])
def test_sizes_are_those_of_whole_channels(size: str, job: Callable[..., CellConfig]) -> None:
    with pytest.raises(Refused, match=rf"^stop\.{size}: counts what is left without dead channels, which structure="):
        build(job(f"stop.{size}=1000"))


def test_a_cell_that_was_finished_before_a_condition_was_known_stays_so(job: Callable[..., CellConfig]) -> None:
    first = job("stop.density=0.3")
    run_cell(first)
    file = first.folder / CONFIG
    before = yaml.safe_load(file.read_text())
    before["stop"] = {key: value for key, value in before["stop"].items() if key in ("_target_", "density")}
    file.write_text(yaml.safe_dump(before))
    assert first.finished()
    assert not job("stop.density=0.3", "stop.floor=0.1").finished()


def test_any_of_two_conditions_is_enough() -> None:
    both, dense = Stop(density=0.25, below_dense=0.25), {"val_f1": 0.75}
    assert str(both.reason(0.25, {"val_f1": 0.75}, dense, Headline.named("f1"))).startswith("density ")
    assert str(both.reason(0.3, {"val_f1": 0.25}, dense, Headline.named("f1"))).startswith("val_f1 ")
    assert both.reason(0.3, {"val_f1": 0.75}, dense, Headline.named("f1")) is None


def test_a_loss_is_worse_where_it_is_higher() -> None:
    """A module's headline may be its loss, which gets worse when it rises."""
    stop = Stop(below_dense=0.5)
    assert stop.reason(0.3, {"val_loss": 2.0}, {"val_loss": 1.0}, Headline.named("loss"))
    assert stop.reason(0.3, {"val_loss": 0.25}, {"val_loss": 1.0}, Headline.named("loss")) is None


def test_an_error_is_worse_where_it_is_higher_and_a_score_where_it_is_lower() -> None:
    stop, error = Stop(below_dense=0.05), Headline("mae", higher_is_better=False, share=False)
    said = "val_mae 0.2 is more than stop.below_dense=0.05 above the dense network's 0.1"
    assert stop.reason(0.3, {"val_mae": 0.2}, {"val_mae": 0.1}, error) == said
    assert stop.reason(0.3, {"val_mae": 0.01}, {"val_mae": 0.1}, error) is None
    assert stop.reason(0.3, {"val_mae": 0.01}, {"val_mae": 0.1}, Headline("mae", True, False)) is not None


@pytest.mark.parametrize(("now", "dense"), [(None, 0.5), (0.5, None), (None, None)])
def test_what_is_no_number_stops_no_chain(now: float | None, dense: float | None) -> None:
    assert Stop(below_dense=0.0).reason(0.3, {"val_accuracy": now}, {"val_accuracy": dense}, ACCURACY) is None


def test_the_first_round_that_is_thin_enough_is_the_last(job: Callable[..., CellConfig], no_training: Callable) -> None:
    first = job("stop.density=0.3")
    run_cell(first)
    lines = ledger(first)
    assert [line["density"] for line in lines] == [1, 0.5, 0.25]
    assert [line.get("stopped") for line in lines] == [None, None, "density 0.25 is within stop.density=0.3"]
    assert {line["rounds"] for line in lines} == {4}
    assert first.finished()
    assert trained(first) == 3
    no_training()
    run_cell(first)
    assert [line | {"run": None} for line in ledger(first)] == [line | {"run": None} for line in lines]
    path = first.folder / NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert not first.finished()
    run_cell(first)
    assert first.finished()
    # a longer schedule is played from the same trainings
    longer = job("stop.density=0.3", "schedule.rounds=9")
    run_cell(longer)
    assert longer.folder != first.folder
    assert [line["phase"] for line in ledger(longer)] == [line["phase"] for line in lines]
    assert "stopped" in ledger(longer)[-1]


def test_controls_end_where_their_parent_ends(job: Callable[..., CellConfig]) -> None:
    parent = job("stop.density=0.3", "arm=imp")
    run_cell(parent)
    for arm in ("random_mask", "finetune_parent", "scratch_b"):
        control = job("stop.density=0.3", f"arm={arm}")
        run_cell(control)
        *others, last = [line.get("stopped") for line in ledger(control)]
        assert others == [None] * len(others)
        assert last == f"its parent imp ends here: {ledger(parent)[-1]['stopped']}"
        assert [line["density"] for line in ledger(control)] == [1, 0.5, 0.25]
        assert control.finished()


def test_one_shot_ends_too(job: Callable[..., CellConfig]) -> None:
    chain = job("stop.density=0.3", "arm=one_shot")
    run_cell(chain)
    assert [line["density"] for line in ledger(chain)] == [1, 0.5, 0.25]
    assert chain.finished()


@pytest.mark.slow
def test_a_chain_that_falls_behind_ends(job: Callable[..., CellConfig], no_training: Callable) -> None:
    whole = job("schedule.keep=0.2")  # down to 0.2 %
    control = job("schedule.keep=0.2", "arm=random_mask")
    run_cell(whole)
    run_cell(control)
    before = trained(whole)
    accuracies = [line["val_accuracy"] for line in ledger(whole)]
    drops = [accuracies[0] - accuracy for accuracy in accuracies]
    assert drops[2] < drops[3] < drops[4], drops  # what follows needs a chain that gets worse
    no_training()
    for below, last in ((drops[2], 3), (drops[3] + 1e-6, 4), (0.99, 4)):
        stopping = job("schedule.keep=0.2", f"stop.below_dense={below!r}")
        run_cell(stopping)
        lines = ledger(stopping)
        assert [line["round"] for line in lines] == list(range(last + 1))
        assert [line["phase"] for line in lines] == [line["phase"] for line in ledger(whole)][: last + 1]
        wanted = {last} if below < 0.9 else set()
        assert {line["round"] for line in lines if "stopped" in line} == wanted
        assert stopping.finished()
        followed = job("schedule.keep=0.2", f"stop.below_dense={below!r}", "arm=random_mask")
        run_cell(followed)
        assert ["stopped" in line for line in ledger(followed)] == ["stopped" in line for line in lines]
    assert trained(whole) == before


def test_the_sentence_of_a_chain_that_fell_behind(job: Callable[..., CellConfig]) -> None:
    stopping = job("schedule.rounds=2", "schedule.keep=0.05", "stop.below_dense=0.01")
    run_cell(stopping)
    dense, *_, last = ledger(stopping)
    assert last["stopped"] == (
        f"val_accuracy {last['val_accuracy']:.4g} is more than stop.below_dense=0.01 below the dense network's "
        f"{dense['val_accuracy']:.4g}"
    )


def test_only_a_condition_changes_the_name_of_a_study() -> None:
    plain, *others = (
        cell_configs([*HALVES, *more])[0]
        for more in (
            [], ["stop.density=null"], ["stop.density=0.3"], ["stop.density=0.2"], ["stop.below_dense=0.3"],
            ["stop.density=0.3", "stop.below_dense=0.3"],
        )
    )  # fmt: skip
    same, *stops = others
    assert same.study == plain.study
    assert len({plain.study, *(stop.study for stop in stops)}) == 5
    assert {stop.label for stop in stops} == {"imp"}


def test_a_stopped_chain_lacks_no_round(job: Callable[..., CellConfig], tmp_path: Path) -> None:
    run_cell(job("stop.density=0.3"))
    assert missing(read(tmp_path / "runs")) == []


def test_a_control_trains_its_parent_s_last_round_for_a_condition_alone(job: Callable[..., CellConfig]) -> None:
    """A training may change masks, so that how thin a round of the parent is can be told after its training only."""
    control = job("schedule.rounds=2", "arm=random_mask")
    run_cell(control)
    assert trained(control) == 4  # dense, the parent's first round, two of its own
    stopping = job("schedule.rounds=2", "arm=random_mask", "stop.density=0.3")
    run_cell(stopping)
    assert trained(stopping) == 5


def test_a_condition_of_one_s_own_is_shown_what_was_measured(job: Callable[..., CellConfig]) -> None:
    shown: list[tuple[float, int, int]] = []

    class Watching(Stop):
        def reason(self, density: float, now: Any, dense: Any, metric: Headline) -> str | None:
            shown.append((density, now["step"], dense["step"]))
            return None

    recipe = build(job()).study.recipe
    measured = Trained({}, {"fc.weight": torch.tensor([True, False])}, [{"step": 7}])
    one = dense_round(recipe, 0, lambda current: measured)
    assert stop_reason(recipe, Watching(), one, one) is None
    assert shown == [(0.5, 7, 7)]


REFUSED = {
    "stop.density=2": "stop.density=2: must lie inside (0, 1)",
    "stop.density=1": "stop.density=1: must lie inside (0, 1)",
    "stop.density=0": "stop.density=0: must lie inside (0, 1)",
    "stop.density=-0.5": "stop.density=-0.5: must lie inside (0, 1)",
    "stop.density=nan": "stop.density=nan: must be a finite number",
    "stop.density=thin": "stop.density=thin: must be a number or null",
    "stop.density=true": "stop.density=true: must be a number or null",
    "stop.below_dense=-1": "stop.below_dense=-1: must be 0 or more",
    "stop.below_dense=[1]": "stop.below_dense=[1]: must be a number or null",
    "stop.densty=0.1": "stop.densty=0.1: stop has no such key; did you mean density? "
    "allowed: below_dense, bytes, density, floor, flops, parameters; "
    "to add one, write +stop.densty=0.1",
    "+stop.rounds=3": "stop.rounds=3: lottery.stopping.Stop has no such argument; "
    "allowed: density, below_dense, floor, parameters, flops, bytes; ~stop.rounds takes it out",
}


@pytest.mark.parametrize(("override", "why"), REFUSED.items())
def test_bad_conditions_are_refused_in_one_sentence(override: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        check(build(cell_configs([*TINY, override])[0]))
    assert str(refused.value) == why


@pytest.mark.parametrize("override", ["stop=null", "~stop", "stop=0.1"])
def test_conditions_are_there_as_a_whole(override: str) -> None:
    with pytest.raises(Refused, match=r"^stop"):
        check(build(cell_configs([*TINY, override])[0]))
