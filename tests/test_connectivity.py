"""Linear mode connectivity: the line, its barrier, BatchNorm's statistics, and the analysis of a small run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lottery.analyses.connectivity import Connectivity, barrier, mixed
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.foundations.digests import digest
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline
from lottery.pruning.batchnorm import measure_statistics
from lottery.rounds.arms import Arm
from lottery.rounds.round import dense_round
from lottery.running.cell import TrainOnce
from lottery.running.launch import run_cell
from lottery.store.entries import Entry, Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger, LedgerError
from lottery.training import module_recipe
from lottery.training.phase import Trained
from lottery.training.recipes import Recipe
from lottery.training.states import State, state_of
from tests.conftest import TINY
from tests.test_rounds import recipe as batchnorm_recipe


@pytest.mark.parametrize(
    ("line", "height"),
    [
        ([0.9, 0.6, 0.8], 0.25),
        ([0.9, 0.9, 0.8], 0.05),  # an end is a point, too
        ([0.8, 0.9, 0.9, 0.8], 0.0),
        ([0.5, 0.25, 0.125, 0.5, 0.75], 0.5),
        ([-1.0, -3.0, -2.0], 1.5),  # of a loss, with its sign turned
        ([-1.0, -0.5, -1.0], 0.0),
        ([-1.0, -1.25, -2.0], 0.5),
    ],
)
def test_barriers(line: list[float], height: float) -> None:
    assert barrier(line) == height


values = st.floats(0, 1, width=32)
lines = st.lists(values, min_size=3, max_size=12)


@given(lines)
def test_a_barrier_is_the_same_from_both_sides_and_never_negative(line: list[float]) -> None:
    assert barrier(line) == barrier(line[::-1]) >= 0


@given(values, st.integers(3, 12))
def test_a_level_line_has_no_barrier(value: float, points: int) -> None:
    assert barrier([value] * points) == barrier([-value] * points) == 0


@given(lines, st.data())
def test_a_deeper_dent_is_a_higher_barrier(line: list[float], data: st.DataObject) -> None:
    dent = data.draw(st.integers(1, len(line) - 2))
    deeper = [*line[:dent], line[dent] / 2, *line[dent + 1 :]]
    assert barrier(deeper) >= barrier(line)


def test_the_ends_of_a_line_are_exact() -> None:
    rng = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.randint(-8, 8, (500,), generator=rng)
    one, other = ({"w": torch.randn(500, generator=rng) * size, "n": torch.tensor(n)} for n in (3, 8))
    assert torch.equal(mixed(one, other, 0.0)["w"], one["w"])
    assert torch.equal(mixed(one, other, 1.0)["w"], other["w"])
    assert int(mixed(one, other, 1.0)["n"]) == 3
    assert mixed(one, other, 0.5)["n"].dtype == torch.int64
    middle = mixed({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([5.0, 2.0])}, 0.25)
    assert middle["w"].tolist() == [2.0, -1.0]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.last, self.second = nn.Linear(3 * 4 * 4, 5), nn.BatchNorm1d(5, momentum=None)
        self.free = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.first(inputs)).relu())
        return self.free(self.second(self.last(hidden.flatten(1))))


def test_statistics_are_means_over_the_batches() -> None:
    torch.manual_seed(0)
    net = Normed()
    net(torch.randn(8, 2, 6, 6))  # its statistics are not those at the start
    batches = [torch.randn(8, 2, 6, 6) * 2 + 1 for _ in range(3)]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    measure_statistics(net, iter(batches))

    def of(activations: list[Tensor], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        means = torch.stack([a.double().mean(axes) for a in activations])
        variances = torch.stack([a.double().transpose(0, 1).flatten(1).var(1, unbiased=True) for a in activations])
        return means.mean(0), variances.mean(0)

    with torch.no_grad():
        first = [net.first(batch) for batch in batches]
        normed = []
        for a in first:  # each batch by its own statistics, without dropout
            mean, variance = a.mean((0, 2, 3), keepdim=True), a.var((0, 2, 3), unbiased=False, keepdim=True)
            normed.append(((a - mean) / (variance + 1e-5).sqrt()).relu())
        second = [net.last(hidden.flatten(1)) for hidden in normed]
    for norm, activations, axes in ((net.norm, first, (0, 2, 3)), (net.second, second, (0,))):
        mean, variance = of(activations, axes)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)
        assert int(norm.num_batches_tracked) == 3
    assert (net.norm.momentum, net.second.momentum) == (0.3, None)
    for name, tensor in net.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in net.parameters())


def test_statistics_measured_anew_forget_those_before() -> None:
    torch.manual_seed(0)
    net, other, batch = nn.BatchNorm1d(4), nn.BatchNorm1d(4), torch.randn(16, 4)
    for _ in range(3):
        net(torch.randn(16, 4) + 5)
    for norm in (net, other):
        measure_statistics(norm, [batch])
    assert digest(net.state_dict()) == digest(other.state_dict())


def test_statistics_on_one_batch_are_those_of_the_batch() -> None:
    net, batch = nn.BatchNorm1d(2), torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 0.0]])
    measure_statistics(net, [batch])
    assert net.running_mean is not None
    assert net.running_var is not None
    assert net.running_mean.tolist() == [2.0, 2.0]
    assert net.running_var.tolist() == [4.0, 7.0]


def test_a_network_without_batchnorm_is_not_touched() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3, track_running_stats=False))
    before = digest(net.state_dict())

    def inputs() -> Iterator[Tensor]:
        raise AssertionError("read")
        yield

    measure_statistics(net, inputs())
    assert digest(net.state_dict()) == before
    assert net.training


@pytest.mark.parametrize(("statistics", "size", "seen"), [(40, 20, [20, 20]), (500, 20, [20] * 3), (15, 20, [15])])
def test_statistics_are_of_so_many_training_examples(
    monkeypatch: pytest.MonkeyPatch, statistics: int, size: int, seen: list[int]
) -> None:
    assert examples_seen(monkeypatch, statistics, size) == seen


def test_statistics_are_of_no_more_examples_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(examples_seen(monkeypatch, statistics=30, size=20)) == 30


def examples_seen(monkeypatch: pytest.MonkeyPatch, statistics: int, size: int) -> list[int]:
    """Sizes of the batches, the first of the 60 training examples in order."""
    recipe: Recipe = batchnorm_recipe()
    seen: list[Tensor] = []
    monkeypatch.setattr(module_recipe, "batch", lambda shape: size)
    monkeypatch.setattr(module_recipe, "measure_statistics", lambda net, inputs: seen.extend(inputs))
    recipe.with_statistics(state_of(recipe.network()), statistics, 0, 0)
    together = torch.cat(seen)
    assert torch.equal(together, recipe.data.train.inputs[: len(together)])
    return [len(batch) for batch in seen]


# a whole run

OVERRIDES = ("analysis=connectivity", "analysis.connectivity.points=3", "schedule.rounds=1", "hardware=cpu")


def job_in(folder: Path, *overrides: str) -> CellConfig:
    return cell_configs([*TINY, *OVERRIDES, f"out={folder}/runs", *overrides])[0]


def found(job: CellConfig) -> list[dict[str, Any]]:
    return Ledger(job.folder / "connectivity.jsonl").lines()


def accuracy(job: CellConfig, state: State) -> float:
    """By a plain loop: no loader, no metric."""
    recipe = build(job).study.recipe
    net = recipe.network()
    net.load_state_dict(state)
    test = recipe.data.test
    with torch.no_grad():
        hits = net.eval()(test.inputs).argmax(1) == test.targets
    return float(hits.double().mean())


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> CellConfig:
    job = job_in(tmp_path_factory.mktemp("plain"))
    run_cell(job)
    return job


def entries(job: CellConfig, steps: Sequence[int]) -> list[dict[str, Any]]:
    found = Store(job.config["store"]).entries()
    return [meta["spec"] | {"key": key} for key, meta in found.items() if meta["spec"].get("steps") == list(steps)]


def test_a_line_for_each_round_with_the_ledger_s_accuracy_at_its_beginning(played: CellConfig) -> None:
    ledger, lines = Ledger(played.folder / NAME).lines(), found(played)
    assert len(lines) == len(ledger) == 2
    for line, of in zip(lines, ledger, strict=True):
        assert {key: line[key] for key in ("study", "arm", "seed", "round", "rounds", "density", "data")} == {
            key: of[key] for key in ("study", "arm", "seed", "round", "rounds", "density", "data")
        }
        assert [point["place"] for point in line["line"]] == [0, 0.5, 1]
        assert line["line"][0]["test_accuracy"] == of["test_accuracy"]
        assert line["steps_together"] == 0
        heights = [point["test_accuracy"] for point in line["line"]]
        assert line["barrier"] == round(max(0.0, (heights[0] + heights[2]) / 2 - min(heights)), 9)


def test_both_trainings_of_a_round_differ_in_order_and_noise_alone(played: CellConfig) -> None:
    store = Store(played.config["store"])
    of_round = [entries(played, [0, 30])]
    assert len(of_round[0]) == 4
    starts = {(spec["state"], spec["masks"]) for spec in of_round[0]}
    assert len(starts) == 2
    for start in starts:
        one, other = (spec for spec in of_round[0] if (spec["state"], spec["masks"]) == start)
        assert one["seeds"]["order"] != other["seeds"]["order"]
        assert one["seeds"]["noise"] != other["seeds"]["noise"]
        same = {key: value for key, value in one.items() if key not in ("seeds", "key")}
        assert same == {key: value for key, value in other.items() if key not in ("seeds", "key")}
        states = [store.find(spec["key"]).state for spec in (one, other)]
        measured = sorted(round(accuracy(played, state), 6) for state in states)
        line = next(
            line["line"]
            for line, of in zip(found(played), Ledger(played.folder / NAME).lines(), strict=True)
            if of["phase"] in (one["key"], other["key"])
        )
        assert sorted(round(line[end]["test_accuracy"], 6) for end in (0, 2)) == measured
        middle = {name: (states[0][name] + states[1][name]) / 2 for name in states[0]}
        assert line[1]["test_accuracy"] == pytest.approx(accuracy(played, middle), abs=0.0021)  # one of 500


def test_an_analysis_lost_is_made_again_from_the_store(played: CellConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("it trained")

    assert played.finished()
    path = played.folder / "connectivity.jsonl"
    before = path.read_bytes()
    path.unlink()
    assert not played.finished()
    monkeypatch.setattr(pl.Trainer, "fit", fit)
    run_cell(played)
    assert path.read_bytes() == before
    path.write_bytes(before.splitlines(keepends=True)[0])
    assert not played.finished()
    run_cell(played)
    assert path.read_bytes() == before
    assert played.finished()


def test_the_results_of_a_run_do_not_depend_on_what_is_analysed(played: CellConfig) -> None:
    plain = cell_configs([*TINY, "schedule.rounds=1", "hardware=cpu", f"out={played.config['out']}"])[0]
    assert (plain.study, plain.label) == (played.study, played.label)
    assert plain.finished()


def test_other_settings_of_an_analysis_are_not_taken_for_finished(played: CellConfig) -> None:
    finer = job_in(Path(played.config["out"]).parent, "analysis.connectivity.points=5")
    assert finer.folder != played.folder or not finer.finished()


def test_the_dense_network_parts_at_the_rewinding_point(tmp_path: Path) -> None:
    job = job_in(tmp_path, "arm.rewind=10", "schedule.rounds=0")
    run_cell(job)
    (line,) = found(job)
    assert line["steps_together"] == 10
    one, other = entries(job, [10, 30])
    assert one["state"] == other["state"]
    cell = build(job)
    dense = dense_round(cell.study.recipe, cell.seed, TrainOnce(cell, Store(job.config["store"])))
    at_ten = dense.cut(10).trained
    assert isinstance(at_ten, Entry)
    assert at_ten.reused
    assert one["state"] == digest(at_ten.state) != digest(dense.ticket.state)


def test_batchnorm_s_statistics_are_measured_anew_at_the_ends_too(tmp_path: Path) -> None:
    recipe: Recipe = batchnorm_recipe()
    torch.manual_seed(0)
    net = recipe.network()
    net(torch.randn(8, 6) * 3 + 1)
    state = state_of(net)
    got = Connectivity(statistics=60)._measured(recipe, state, 0)
    first, rest = net[0], net[2:]
    data = recipe.data
    with torch.no_grad():
        hidden = first(data.train.inputs)
        mean, variance = hidden.mean(0), hidden.var(0)
        outputs = rest((first(data.test.inputs) - mean) / (variance + 1e-5).sqrt())
    assert got == pytest.approx(float((outputs.argmax(1) == data.test.targets).double().mean()))
    assert digest(state) == digest(state_of(net))


def test_the_barrier_of_a_module_that_shows_its_loss_is_a_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Recipe = batchnorm_recipe()
    monkeypatch.setitem(vars(recipe), "headline", Headline.named("loss"))
    cell: Any = SimpleNamespace(study=SimpleNamespace(recipe=recipe), arm=Arm("imp"), seed=0)
    dense = dense_round(recipe, 0, lambda current: Trained(current.ticket.state, current.ticket.masks, []))
    heights = iter([1.0, 4.0, 2.0])
    monkeypatch.setattr(Connectivity, "_measured", lambda *_: next(heights))
    line = Connectivity(points=3)(cell, dense)
    assert line["barrier"] == 2.5
    assert [point["test_loss"] for point in line["line"]] == [1.0, 4.0, 2.0]


def test_a_line_with_a_point_that_is_no_number_has_no_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Recipe = batchnorm_recipe()
    cell: Any = SimpleNamespace(study=SimpleNamespace(recipe=recipe), arm=Arm("imp"), seed=0)
    dense = dense_round(recipe, 0, lambda current: Trained(current.ticket.state, current.ticket.masks, []))
    heights = iter([0.5, None, 0.5])
    monkeypatch.setattr(Connectivity, "_measured", lambda *_: next(heights))
    line = Connectivity(points=3)(cell, dense)
    assert line["barrier"] is None
    assert [point["test_accuracy"] for point in line["line"]] == [0.5, None, 0.5]


def test_what_an_analysis_found_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_in(tmp_path)
    run_cell(job)
    before = (job.folder / "connectivity.jsonl").read_bytes()
    # as on another kind of processor
    monkeypatch.setattr(Connectivity, "__call__", lambda *_: {"barrier": 1.0, "steps_together": 0, "line": []})
    run_cell(job)
    assert (job.folder / "connectivity.jsonl").read_bytes() == before
    with pytest.raises(LedgerError, match=r"connectivity.jsonl: round 0 was measured under other"):
        run_cell(job_in(tmp_path, "analysis.connectivity.points=5"))
    assert (job.folder / "connectivity.jsonl").read_bytes() == before


def test_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        run_cell(job_in(tmp_path, "hardware.devices=2"))
    assert str(refused.value) == "hardware.devices=2: goes without an analysis; run it with hardware.devices=1"


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("points=2", "points=2: must be at least 3, two of which are the ends"),
        ("points=many", "points=many: must be a whole number"),
        ("points=11.5", "points=11.5: must be a whole number"),
        ("statistics=1", "statistics=1: must be at least 2 examples"),
        ("statistics=-1", "statistics=-1: must be at least 2 examples"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(tmp_path: Path, override: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        run_cell(job_in(tmp_path, f"analysis.connectivity.{override}"))
    assert str(refused.value) == f"analysis.connectivity.{why}"


def test_a_misspelt_analysis(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^analysis=conectivity: there is no such analysis; did you mean connectivity "):
        job_in(tmp_path, "analysis=conectivity")


def test_the_plan_says_what_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lottery.commands import plan

    monkeypatch.setattr(plan, "probe", lambda cell: (0.0, 0.0))
    plan.show([job_in(tmp_path)])
    assert "not counted: what the analyses train besides (connectivity)\n" in capsys.readouterr().out
