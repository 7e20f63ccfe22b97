"""`lottery compress`: a finished round, or a file of weights, becomes smaller networks, a table and files."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from lottery.commands.main import dispatch
from lottery.compress.export import read_point
from lottery.compress.smaller import Trained
from lottery.config.build import build_recipe
from lottery.config.compose import cell_configs
from lottery.config.recorded import load
from lottery.foundations.errors import Refused
from lottery.foundations.seeds import Streams, seeded
from lottery.pruning.channels.shrinking import shrunk
from lottery.pruning.contracts import Evidence, Scores
from lottery.pruning.criteria.start import movement as shipped_movement
from lottery.rounds.round import initial
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.running.launch import run_cell
from lottery.store.entries import Store
from lottery.store.ledger import LedgerError
from lottery.store.tickets import read
from lottery.training.numerics import Numerics
from tests import tiny_sets
from tests.conftest import TINY


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell of two rounds."""
    from lottery.config.build import build

    out = tmp_path_factory.mktemp("runs")
    (job,) = cell_configs([*TINY, f"out={out}", "budget.steps=200"])
    cell: Cell = build(job)
    folder = out / "study" / "imp" / "seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(dict(job.config)))  # JSON is yaml
    record_cell(cell, folder, Store(out / "store"))
    return folder


def compress(*words: str) -> int:
    return dispatch(["compress", *words])


def test_a_round_becomes_smaller_networks_with_a_table_and_files(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    settings = ["compensation=least_squares", "compensation.batches=2"]
    assert not compress(str(runs), *settings, "--round", "0", "--keep", "0.5,0.2", "--export", "0.2", "--out", str(out))
    frame = pd.read_csv(out / "points.csv").set_index("point")
    assert list(frame.index) == [
        "dense", "0.5", "0.2", "0.5 masked", "0.2 masked", "0.5 masked, CSR", "0.2 masked, CSR",
    ]  # fmt: skip
    small, zeros = frame.loc["0.2"], frame.loc["0.2 masked"]
    assert small["nonzeros"] < zeros["nonzeros"] < small["nonzeros"] + 400  # biases of units whose readers are zero
    assert zeros["bytes"] == frame["bytes"]["dense"]
    assert zeros["masked_bytes"] < small["bytes"] + 50_200 / 8 + 2000  # kept values, a bit a weight, those biases
    assert frame["ms_64"].notna().all()
    assert frame["nonzeros"].notna().to_dict() == {name: "CSR" not in name for name in frame.index}
    assert frame["parameters"]["dense"] == 64 * 300 + 300 + 300 * 100 + 100 + 1000 + 10
    for share in ("0.5", "0.2"):
        # of the prunable 50,200 weights, and with biases a little more
        assert 0.9 * float(share) * 50_200 < frame["parameters"][share] < float(share) * 50_200 + 410
    assert frame["test_accuracy"]["dense"] > 0.9
    assert frame["test_accuracy"]["0.2"] > 0.5
    assert all((out / f"points.{suffix}").stat().st_size > 1000 for suffix in ("png", "svg", "pdf"))
    assert frame["bytes"]["0.2"] == (out / "network" / "model.safetensors").stat().st_size
    said = capsys.readouterr().out
    assert re.search(r"^\| +test accuracy \| +0\.9\d+ \|", said, re.MULTILINE)
    assert re.search(r"^\| +ms, batch 64 \|( +\d\S* \[\S+, \S+\] \|){7}$", said, re.MULTILINE)

    net, _ = load(runs, 0)
    again = read_point(out / "network", lambda structure: shrunk(net, structure))
    inputs = torch.randn(3, 1, 8, 8)
    assert re.search(r"network/model.pt2  [0-9,]+ bytes, outputs within \d", said)
    program = torch.export.load(out / "network" / "model.pt2").module()
    torch.testing.assert_close(again.eval()(inputs), program(inputs))


def test_explain_writes_nothing(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    assert not compress(str(runs), "--keep", "0.5", "--explain", "--out", str(out))
    said = capsys.readouterr().out
    assert "fc1.weight[0], fc1.bias[0], fc2.weight[1]" in said
    assert not out.exists()


def test_weights_from_a_file(runs: Path, tmp_path: Path) -> None:
    net, _ = load(runs, 0)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    words = [
        "data=digits",
        "--weights",
        str(tmp_path / "net.safetensors"),
        "--keep",
        "0.3",
        "--out",
        str(tmp_path / "o"),
    ]
    assert not compress(*words)
    frame = pd.read_csv(tmp_path / "o" / "points.csv").set_index("point")
    assert frame["test_accuracy"]["dense"] > 0.9


def test_weights_for_other_classes_are_not_taken_with_a_last_layer_of_our_own(runs: Path, tmp_path: Path) -> None:
    """Its accuracy would be that of nothing trained."""
    net, _ = load(runs, 0)
    other = {name: tensor[:7] if name.startswith("output") else tensor for name, tensor in net.state_dict().items()}
    safetensors.torch.save_file(other, tmp_path / "net.safetensors")
    with pytest.raises(Refused, match=r"does not fit this network; other shapes have output\.bias 7, not 10, "):
        compress("data=digits", "--weights", str(tmp_path / "net.safetensors"), "--keep", "0.3", "--explain")


def test_weights_that_are_no_numbers_are_named(runs: Path, tmp_path: Path) -> None:
    net, _ = load(runs, 0)
    torch.nn.init.constant_(net.get_parameter("fc2.bias"), torch.nan)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(Refused, match=r"net\.safetensors: fc2\.bias holds numbers that are not finite$"):
        compress("data=digits", "--weights", str(tmp_path / "net.safetensors"), "--keep", "0.3", "--explain")


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        ([], "parameters"),
        (["experiment=liu2019_slimming", "hydra.mode=RUN"], "flops"),
        (["structure.budget=bytes"], "bytes"),
        (["structure.budget=weights"], "weights"),
    ],
)
def test_a_share_is_of_parameters_unless_something_else_is_asked_for(
    words: list[str], budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(config: Mapping[str, Any]) -> None:
        raise Refused(f"of {config['structure']['budget']}")

    monkeypatch.setattr("lottery.commands.compress.asked.build_recipe", built)
    with pytest.raises(Refused, match=f"^of {budget}$"):
        compress("data=fashion_mnist", *words, "--weights", str(tmp_path / "none.safetensors"), "--explain")


def test_a_cell_is_found_from_within_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tmp_path / "imp,rewind=500it" / "seed0"
    cell.mkdir(parents=True)
    (cell / "ledger.jsonl").touch()
    (tmp_path / "data=digits").mkdir()  # no cell: what is typed is the setting
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="imp,rewind=500it/seed0"):
        compress("imp,rewind=500it/seed0")
    with pytest.raises(Refused, match="there is no such file"):
        compress("data=digits", "--weights", "none.safetensors")
    monkeypatch.chdir("imp,rewind=500it")
    with pytest.raises(FileNotFoundError, match="seed0"):
        compress("seed0")


class Executed:
    """Executes code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return self.file.touch, ()


def test_weights_that_torch_saved(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = load(runs, 0)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        assert not compress("data=digits", "--weights", str(tmp_path / name), "--keep", "0.3", "--explain")
    one, other = capsys.readouterr().out.split("\nat 0.3:")[1:]
    assert one == other


@pytest.mark.parametrize("ending", ["pt", "pth", "safetensors"])
def test_nothing_in_a_file_of_weights_is_executed(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"net.{ending}"
    torch.save({"fc1.weight": Executed(tmp_path / "executed")}, file)
    with pytest.raises(
        Refused, match=rf"^--weights=\S*net.{ending}: (is no torch.save|can't be read as a safetensors)"
    ):
        compress("data=digits", "--weights", str(file), "--keep", "0.3", "--explain")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    assert (tmp_path / "executed").exists()  # it would have been


@pytest.mark.parametrize("held", [[torch.ones(2)], {"state_dict": {"fc1.weight": torch.ones(2)}}, {"epoch": 3}])
def test_weights_are_tensors_by_name(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pt")
    with pytest.raises(Refused, match=r"net\.pt: holds something else than tensors by name"):
        compress("data=digits", "--weights", str(tmp_path / "net.pt"), "--keep", "0.3", "--explain")


def test_shares_of_another_budget(runs: Path, tmp_path: Path) -> None:
    assert not compress(str(runs), "structure.budget=bytes", "--keep", "0.5", "--out", str(tmp_path / "small"))
    frame = pd.read_csv(tmp_path / "small" / "points.csv").set_index("point")
    assert 0.45 < frame["bytes"]["0.5"] / frame["bytes"]["dense"] <= 0.5


def test_settings_may_stand_behind_options(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not compress(str(runs), "--explain", "--keep", "0.5", "compensation=mean", "~hardware.devices")
    with pytest.raises(ValueError, match=r"structure\.pool=median: must be one of"):
        compress(str(runs), "--explain", "--keep", "0.5", "structure.pool=median")
    with pytest.raises(SystemExit):
        compress(str(runs), "--explain", "--nonsense", "compensation=mean")
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_shares_are_those_of_the_smaller_network_of_a_pruned_round_too(runs: Path, tmp_path: Path) -> None:
    compress(str(runs), "--round", "2", "--keep", "0.3,0.30001", "--out", str(tmp_path / "out"))
    points = pd.read_csv(tmp_path / "out" / "points.csv", dtype={"point": str}).set_index("point")
    for share in ("0.3", "0.30001"):
        assert 0.8 * 0.3 < points["parameters"][share] / points["parameters"]["dense"] <= float(share)


def test_survivors_are_refitted_unless_told_otherwise(runs: Path, tmp_path: Path) -> None:
    for name, settings in (("refitted", ()), ("as_they_were", ("~compensation",))):
        compress(str(runs), *settings, "--keep", "0.2", "--out", str(tmp_path / name))
    refitted, as_they_were = (
        pd.read_csv(tmp_path / name / "points.csv")["test_accuracy"][1] for name in ("refitted", "as_they_were")
    )
    assert refitted > as_they_were + 0.1


@pytest.mark.slow
def test_training_on_helps(runs: Path, tmp_path: Path) -> None:
    for steps in ("0", "100"):
        words = ("~compensation", "--round", "0", "--keep", "0.05", "--tune", steps)
        compress(str(runs), *words, "--out", str(tmp_path / steps))
    raw, tuned = (pd.read_csv(tmp_path / steps / "points.csv")["val_loss"][1] for steps in ("0", "100"))
    assert tuned < raw / 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUNS", "--keep", "0.5", "--export", "0.2"], r"--export 0\.2: must be one of --keep 0\.5"),
        (["RUNS", "--tune", "-1"], "--tune -1: must be at least 0"),
        (["RUNS", "data=mnist"], "data=mnist: is the run's own; of a finished run criterion, scope"),
        (["RUNS", "data.root="], "data.root=: is empty"),
        (["RUNS", "--out", "."], r"--out \.: exists already; name a new folder"),
        (["data=digits"], "compress: needs one finished cell's folder, or --weights"),
        (["data=digits", "--weights", "none.safetensors"], "--weights=none.safetensors: there is no such file"),
        (["RUNS", "--keep", "0.001"], r"keeps 0\.0\d+ of the parameters at the least, \d+, .*; 0\.001 is asked for"),
        (["RUNS", "structure.budget=flops", "--keep", "0.001"], r"keeps 0\.0\d+ of the flops at the least, [\d,]+, .*"),
        (["RUNS", "structure=rows"], "compress: needs structure=channels"),
        (["data=digits", "seed=0,1", "--weights", "none"], "seed=0,1: several values are a sweep"),
        (["experiment=demo", "--weights", "none"], "the settings ask for 10"),
        (["RUNS/imp,rewind=3it/seed0"], "imp,rewind=3it/seed0"),
        (["RUNS", "structure.pool=median"], "structure.pool=median: must be one of mean, sum, max, norm, first"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Refused, ValueError, LedgerError, OSError), match=message):
        compress(*(word.replace("RUNS", str(runs)) for word in words))
    assert not list(tmp_path.iterdir())


class Asking(nn.Module):
    """Its way depends on the values of its inputs, which no program expresses; channels are found all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 20), nn.Linear(20, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.one(inputs.flatten(1)).relu()
        return self.two(hidden if inputs.sum() < 1e9 else hidden + 1)


class Bessel(Asking):
    """What it does ONNX has no operator for, and torch.export expresses."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.two(torch.special.bessel_j0(self.one(inputs.flatten(1)).relu()))


class Named(Asking):
    """Gives its scores by name, of which no loss of ours can be computed."""

    def forward(self, inputs: torch.Tensor) -> Any:
        return {"scores": super().forward(inputs)}


class Rarely(Asking):
    """Reads its channels by another layer too, if its inputs are as no examples are."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Linear(20, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.one(inputs.flatten(1)).relu()
        return self.two(hidden) if inputs.sum() < 1e9 else self.three(hidden)


@pytest.mark.parametrize(
    ("net", "words", "said"),
    [
        (Asking, ["--keep", "0.5", "--export", "0.5"], "^torch.export can't express this network for batches of any"),
        (Asking, ["--within", "bytes=4kB", "--export"], "^torch.export can't express this network for batches of any"),
        (Named, ["--keep", "0.5"], "^module: .* of type dict .*; the network must give one tensor of scores$"),
        (Rarely, ["--keep", "0.5"], "^channels: no operation of the examples uses three.weight, so that nobody knows"),
        (Bessel, ["--keep", "0.5", "--export", "0.5", "--onnx"], "^model.onnx: ONNX has no prims.bessel_j0, which"),
    ],
)
def test_what_can_not_be_exported_is_refused_before_any_work(
    net: type[nn.Module], words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trained, "smaller", lambda *_: pytest.fail("a network was made"))
    monkeypatch.setattr("lottery.commands.compress.searched.searched", lambda *_: pytest.fail("it was searched"))
    safetensors.torch.save_file(net().state_dict(), tmp_path / "net.safetensors")
    own = [f"model._target_=tests.test_compress.{net.__name__}", "~model.shape", "~model.classes", "data=digits"]
    line = [*own, "--weights", str(tmp_path / "net.safetensors"), *words, "--tune", "9", "--out", str(tmp_path / "out")]
    with pytest.raises(Refused, match=said):
        compress(*line)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_what_was_measured_stays_if_what_tuning_came_to_can_not_be_exported(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise Refused("model.pt2: its outputs differ")

    monkeypatch.setattr("lottery.compress.export.export_point", refuses)
    with pytest.raises(Refused, match=r"^model\.pt2: its outputs differ$"):
        compress(str(runs), "--keep", "0.5", "--export", "0.5", "--out", str(tmp_path / "small"))
    assert list(pd.read_csv(tmp_path / "small" / "points.csv")["point"]) == [
        "dense",
        "0.5",
        "0.5 masked",
        "0.5 masked, CSR",
    ]
    assert not (tmp_path / "small" / "network").exists()


@pytest.mark.parametrize("place", ["/proc/x/y", "file/x", "file/x/y"])
def test_a_place_where_nothing_can_be_made_is_refused_at_once(
    place: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("lottery.commands.compress.asked.asked", lambda *_: pytest.fail("something was read"))
    with pytest.raises(Refused, match=rf"^--out {place}: can't be made: (No such file|Not a directory)"):
        compress(str(runs), "--keep", "0.5", "--out", place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_another_command_made_meanwhile_stays_and_so_does_what_was_made(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "far" / "both"
    usual = Trained.smaller

    def meanwhile(*given: Any) -> Any:
        out.mkdir()
        (out / "theirs").touch()
        return usual(*given)

    monkeypatch.setattr(Trained, "smaller", meanwhile)
    with pytest.raises(Refused, match=rf"^--out {out}: was made meanwhile; what was made lies in (\S+)$") as refused:
        compress(str(runs), "--keep", "0.5", "--out", str(out))
    assert [path.name for path in out.iterdir()] == ["theirs"]
    assert (Path(str(refused.value).rpartition(" ")[2]) / "points.csv").is_file()


def test_an_interruption_leaves_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        assert list((tmp_path / "new").iterdir())  # the place was tried
        raise KeyboardInterrupt

    monkeypatch.setattr(Trained, "smaller", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(str(runs), "--keep", "0.5", "--out", str(tmp_path / "new" / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shares", ["abc", "", "0.5,", "0.5,x", "nan", "1"])
def test_shares_that_are_none(shares: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compress("x", f"--keep={shares}")
    assert f"--keep: {shares or 'nothing'}: must be shares between 0 and 1" in capsys.readouterr().err


def test_configuration_may_be_one_s_own(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "criterion").mkdir()
    (tmp_path / "criterion" / "mine.yaml").write_text("_target_: lottery.pruning.criteria.magnitude\n")
    words = [str(runs), "criterion=mine", "--explain", "--keep", "0.5"]
    assert not compress("--config-dir", str(tmp_path), *words)
    with pytest.raises(Refused, match="criterion=mine"):
        compress(*words)


def test_a_failure_leaves_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lottery.compress.export.export_point", fails)
    with pytest.raises(OSError, match="No space left"):
        compress(str(runs), "--keep", "0.5", "--export", "0.5", "--out", str(tmp_path / "small"))
    assert not list(tmp_path.iterdir())


def test_criteria_that_compare_see_where_training_began(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Evidence] = []

    def movement(evidence: Evidence) -> Scores:
        seen.append(evidence)
        return shipped_movement(evidence)

    monkeypatch.setattr("lottery.pruning.criteria.start.movement", movement)
    monkeypatch.setattr("lottery.pruning.criteria.movement", movement)
    assert not compress(str(runs), "criterion=movement", "--keep", "0.5", "--explain")
    (evidence,) = seen
    (job,) = cell_configs([*TINY, "budget.steps=200"])
    with Numerics().entered(), seeded(Streams(0).init):
        fresh = build_recipe(job.config).network().state_dict()
    assert all(tensor.equal(fresh[name]) for name, tensor in evidence.start.items())
    assert not evidence.weights["fc1.weight"].equal(fresh["fc1.weight"])


def test_data_and_hardware_may_be_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lottery.config.build import build

    settings = tiny_sets.write("mnist", tmp_path / "before")
    small = ("data=mnist", "model=lenet_5", "schedule.rounds=0", "budget.steps=2")
    (job,) = cell_configs([*TINY, *small, *settings, f"out={tmp_path}"])
    folder = tmp_path / "study" / "imp" / "seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(dict(job.config)))
    record_cell(build(job), folder, Store(tmp_path / "store"))
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(Refused, match=r"data\.root=.*before: no MNIST there"):
        compress(str(folder), "--explain")
    (tmp_path / "other").mkdir()
    for file in (tmp_path / "after").iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        (tmp_path / "other" / file.name).write_bytes(content)
    with pytest.raises(Refused, match=r"^data: are others than those that .*seed0 was trained on, of digest"):
        compress(str(folder), f"data.root={tmp_path / 'other'}", "--explain")
    moved = f"data.root='{tmp_path / 'after'}'"
    assert not compress(str(folder), moved, "hardware=cpu", "--explain", "--keep", "0.5")
    assert "of parameter" in capsys.readouterr().out


def mine(evidence: Evidence) -> Scores:
    """A user's criterion, of which nobody knows that it compares before it does."""
    return shipped_movement(evidence)


@pytest.mark.parametrize(
    "criterion",
    [
        ["criterion=movement"],
        ["criterion=large_initial"],
        ["criterion._target_=tests.test_compress.mine"],
        ["criterion=inverted", "criterion.of._target_=lottery.pruning.criteria.movement"],
    ],
)
def test_criteria_that_compare_need_a_start(criterion: list[str], runs: Path, tmp_path: Path) -> None:
    net, _ = load(runs, 0)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(
        Refused, match=r"^criterion: compares weights with those that training began with, and --weights has none$"
    ):
        compress("data=digits", *criterion, "--weights", str(tmp_path / "net.safetensors"), "--explain")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What `criterion=movement` compares with, each time."""
    seen: list[dict[str, torch.Tensor]] = []

    def movement(evidence: Evidence) -> Scores:
        seen.append(dict(evidence.start))
        return shipped_movement(evidence)

    monkeypatch.setattr("lottery.pruning.criteria.start.movement", movement)
    monkeypatch.setattr("lottery.pruning.criteria.movement", movement)
    return seen


def explained(folder: Path, *more: str) -> int:
    return compress(str(folder), *more, "--keep", "0.5", "--explain")


def test_criteria_that_compare_see_the_rewinding_point(starts: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    words = ["criterion=movement", "arm.rewind=10it", "schedule.rounds=1", f"out={tmp_path}"]
    (job,) = cell_configs([*TINY, *words])
    run_cell(job)
    (in_rounds,) = starts[-1:]
    assert not explained(job.folder, "criterion=movement")
    assert not explained(job.folder, "criterion=movement", "--round", "1")
    fresh = initial(build_recipe(job.config), Streams(0).init)
    for found in starts[-2:]:
        assert all(tensor.equal(in_rounds[name]) for name, tensor in found.items())
        assert not found["fc1.weight"].equal(fresh["fc1.weight"])
    for waypoint in (tmp_path / "store").iterdir():
        if "of" in (Store(tmp_path / "store").specification(waypoint.name) or {}):
            shutil.rmtree(waypoint)
    with pytest.raises(
        Refused, match=r"^criterion: compares .* which is the state at arm\.rewind=10it, and the phase "
    ):
        explained(job.folder, "criterion=movement")
    assert not explained(job.folder, "criterion=magnitude")


def test_criteria_that_compare_see_a_ticket_s_own_start(
    starts: list[dict[str, torch.Tensor]], runs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ticket.safetensors"
    dispatch(["ticket", "export", str(runs), "--round", "1", "-o", str(file)])
    (job,) = cell_configs([*TINY, "seed=7", "arm=ticket", f"arm.file={file}", f"out={tmp_path}"])
    run_cell(job)
    held, recipe = read(file).start, build_recipe(job.config)
    for index, began in (("0", initial(recipe, Streams(7).init)), ("1", held)):
        assert not explained(job.folder, "criterion=movement", "--round", index)
        assert all(tensor.equal(began[name]) for name, tensor in starts[-1].items())
    file.write_bytes(b"another")
    with pytest.raises(Refused, match=r"is in the ticket's file, and arm\.file=.*: is another file than the run's$"):
        explained(job.folder, "criterion=movement", "--round", "1")
    assert not explained(job.folder, "criterion=magnitude", "--round", "1")


@pytest.mark.parametrize("arm", ["imp", "random_reinit"])
def test_compensation_goes_with_trained_weights(arm: str, cell: Callable[..., Cell]) -> None:
    with pytest.raises(Refused, match=f"compensation: makes up for what is pruned of trained weights, and arm={arm} "):
        cell(f"arm={arm}", "compensation=mean")


@pytest.mark.parametrize("option", ["mean", "norm", "least_squares", "obs", "batch_norm"])
def test_fine_tuning_begins_with_compensated_weights(option: str, cell: Callable[..., Cell], tmp_path: Path) -> None:
    from lottery.store.folder import NAME
    from lottery.store.ledger import Ledger

    lines = []
    for more in ([], [f"compensation={option}"]):
        folder = tmp_path / str(len(more)) / "finetune" / "seed0"
        of = cell("arm=finetune", "schedule.rounds=1", "schedule.keep=0.3", *more)
        record_cell(of, folder, Store(tmp_path / "store"))
        lines.append(Ledger(folder / NAME).lines())
    assert lines[0][0]["phase"] == lines[1][0]["phase"]
    changed = lines[0][1]["phase"] != lines[1][1]["phase"]
    assert changed is (option != "batch_norm")  # LeNet has none
