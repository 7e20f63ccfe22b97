"""`lottery compress` of users' Lightning projects: a table that is measured, files that come back, or one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lottery.commands.main import dispatch
from lottery.compress.export import read_point
from lottery.config.build import build
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused
from lottery.pruning.channels.shrinking import shrunk
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from tests.lightning import ADVICE, words
from tests.projects.classifier import LitClassifier
from tests.projects.segmenter import LitUNet
from tests.projects.siamese import LitSiamese
from tests.test_channels_projects import Lit

pytestmark = ADVICE
HERE = "tests.test_compress_projects"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell of two rounds of the classifier."""
    out = tmp_path_factory.mktemp("runs")
    (job,) = cell_configs(words("classifier", "schedule.rounds=1", "data.n=640", "budget.steps=6ep", f"out={out}"))
    folder = out / "study" / "imp" / "seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(dict(job.config)))  # JSON is yaml
    record_cell(build(job), folder, Store(out / "store"))
    return folder


def compress(*line: str) -> int:
    return dispatch(["compress", *line])


def points(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "points.csv", dtype={"point": str}).set_index("point")


def test_a_round_becomes_smaller_modules_with_a_table_and_files(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert not compress(str(runs), "--keep", "0.5,0.25", "--export", "0.25", "--out", str(out))
    frame, ledger = points(out), Ledger(runs / NAME).lines()[0]
    assert list(frame.index) == ["dense", "0.5", "0.25", "0.5 masked", "0.25 masked"]
    for name in ("test_acc", "val_acc", "val_loss"):
        assert frame[name]["dense"] == pytest.approx(ledger[name], abs=1e-6)
    assert frame["test_acc"]["dense"] > 0.8
    for share in ("0.5", "0.25"):
        assert 0.5 * float(share) < frame["parameters"][share] / frame["parameters"]["dense"] <= float(share)
    assert frame["test_acc"]["0.5"] > 0.5
    assert frame["bytes"]["0.25"] == (out / "network" / "model.safetensors").stat().st_size
    assert all((out / f"points.{suffix}").stat().st_size > 1000 for suffix in ("png", "svg", "pdf"))
    said = capsys.readouterr().out
    assert re.search(r"^\| +test acc \| +[01]\S* \|", said, re.MULTILINE)
    assert re.search(r"^\| +ms, batch 64 \|( +\d\S* \[\S+, \S+\] \|){5}$", said, re.MULTILINE)

    again = read_point(out / "network", lambda structure: shrunk(LitClassifier(), structure))
    program = torch.export.load(out / "network" / "model.pt2").module()
    inputs = torch.randn(7, 3, 12, 12)
    torch.testing.assert_close(again(inputs), program(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_is_measured_is_the_smaller_module_itself(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    own = LitClassifier.test_step

    def test_step(self: LitClassifier, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        sizes.add(self.net[0].out_channels)
        own(self, batch, batch_idx)

    monkeypatch.setattr(LitClassifier, "test_step", test_step)
    compress(str(runs), "--keep", "0.5", "--out", str(tmp_path / "small"))
    assert 8 in sizes
    assert min(sizes) < 8


@pytest.mark.slow
def test_a_round_trains_on_by_its_own_steps(runs: Path, tmp_path: Path) -> None:
    for steps in ("0", "60"):
        line = ("~compensation", "--keep", "0.1", "--tune", steps)
        compress(str(runs), *line, "--out", str(tmp_path / steps))
    raw, tuned = (points(tmp_path / steps)["val_loss"]["0.1"] for steps in ("0", "60"))
    assert tuned < 0.8 * raw


def test_explain_writes_nothing(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not compress(str(runs), "--keep", "0.5", "--explain", "--out", str(tmp_path / "small"))
    assert "net.0.weight[0], net.1.weight[0], net.1.bias[0]" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def of_weights(tmp_path: Path, net: nn.Module, model: str, data: str, *more: str) -> list[str]:
    safetensors.torch.save_file(net.state_dict(), tmp_path / "net.safetensors")
    line = [f"model._target_={model}", f"data._target_={data}", *more]
    return [*line, "--weights", str(tmp_path / "net.safetensors"), "--out", str(tmp_path / "out")]


def test_weights_of_a_module_whose_network_is_a_part_of_it(tmp_path: Path) -> None:
    net = Lit()
    line = of_weights(tmp_path, net, "tests.test_channels_projects.Lit", "tests.test_channels_projects.Rows")
    assert not compress(*line, "--keep", "0.5", "--export", "0.5")
    again = read_point(tmp_path / "out" / "network", lambda structure: shrunk(Lit().net, structure))
    assert isinstance(again, nn.Sequential)
    program = torch.export.load(tmp_path / "out" / "network" / "model.pt2").module()
    inputs = torch.randn(3, 6)
    torch.testing.assert_close(again(inputs), program(inputs), rtol=1e-5, atol=1e-5)
    assert points(tmp_path / "out")["test_loss"]["dense"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "module", "share", "shapes"),
    [("siamese", LitSiamese, "0.6", [(24,), (24,)]), ("segmenter", LitUNet, "0.8", [(1, 16, 16)])],
)
def test_programs_give_what_the_smaller_module_does(
    kind: str, module: type, share: str, shapes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """Of two inputs, and of a picture of classes; in ONNX too."""
    import onnxruntime  # which takes a second

    model, data, *_ = words(kind)
    line = of_weights(tmp_path, module(), model.partition("=")[2], data.partition("=")[2])
    assert not compress(*line, "--keep", share, "--export", share, "--onnx")
    folder = tmp_path / "out" / "network"
    again = read_point(folder, lambda structure: shrunk(module(), structure))
    inputs = [torch.randn(5, *shape) for shape in shapes]
    expected = again(*inputs).detach()
    program = torch.export.load(folder / "model.pt2").module()
    torch.testing.assert_close(program(*inputs), expected, rtol=1e-5, atol=1e-5)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [each.name for each in session.get_inputs()]
    given = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, given)[0]), expected, rtol=1e-4, atol=1e-4)


class Sized(Lit):
    """Its validation has the number of channels of a layer written down."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def logits(self, x: Tensor) -> Tensor:
        return self(x)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val_hidden", F.linear(torch.ones(1, 16), self.net[2].weight).sum())


class Named(Lit):
    def forward(self, *, x: Tensor) -> Tensor:
        return self.net(x)

    def logits(self, x: Tensor) -> Tensor:
        return self(x=x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tests.test_channels_projects.LayerByLayer", "step calls self.net.0, self.net.2, self.net.4 one by one;"),
        ("tests.test_channels_projects.Functions", "its steps call no part of it that holds a prunable weight"),
        (f"{HERE}.Named", "its forward takes something else than tensors by position"),
        (f"{HERE}.Sized", "the val steps of Sized fail with the network that they are given"),
    ],
)
def test_what_can_not_be_compressed_is_one_sentence_and_nothing_is_written(
    model: str, said: str, tmp_path: Path
) -> None:
    line = of_weights(tmp_path, Lit(), model, "tests.test_channels_projects.Rows")
    with pytest.raises(Refused, match=said):
        compress(*line, "--keep", "0.5", "headline=loss")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_weights_of_another_module_are_refused(tmp_path: Path) -> None:
    line = of_weights(tmp_path, LitSiamese(), "tests.test_channels_projects.Lit", "tests.test_channels_projects.Rows")
    with pytest.raises(Refused, match=r"--weights=.*net.safetensors: does not fit this network"):
        compress(*line, "--keep", "0.5")
