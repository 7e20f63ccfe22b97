"""Modules: what they measure, and that a user's own goes all the way without a file of ours touched."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassHammingDistance

from lottery.config.check import check
from lottery.data.examples import Data, Examples
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline, headline
from lottery.reports.folder import write
from lottery.reports.results import read
from lottery.reports.tables import render
from lottery.rounds.study import Cell
from lottery.running.cell import record_cell
from lottery.running.progress import Progress
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.training import evaluation
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.module_recipe import ModuleRecipe
from lottery.training.modules import Classifier, Module, headline_of
from lottery.training.phase import Phase
from lottery.training.recipes import Budget
from lottery.training.states import state_of


def measured(classes: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """The last row of a short training, with the trained network's outputs and the targets of the test part."""
    stream = torch.Generator().manual_seed(classes)
    whole = Examples(torch.randn(60, 4, generator=stream), torch.randint(classes, (60,), generator=stream))
    data = Data(whole[:20], whole[20:37], whole[37:], batch_size=5, shape=(4,), classes=classes)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 12), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, classes))

    recipe = ModuleRecipe(
        data, network, Budget(8, 8, 8), module=partial(Classifier, classes=classes), optimizer=partial(SGD, lr=0.1),
        hardware=Hardware(accelerator="cpu"),
    )  # fmt: skip
    torch.manual_seed(classes)
    trained = fit(recipe, Phase(state_of(network()), {}, 0, 8, order=1, noise=2))
    net = network().eval()
    net.load_state_dict(trained.state)
    with torch.no_grad():
        return trained.rows[-1], net(data.test.inputs), data.test.targets


@pytest.mark.parametrize("batch", [2000, 7])
@pytest.mark.parametrize("classes", [2, 5, 6, 10])
def test_classifier_measures_what_plain_torch_does(classes: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH", batch)  # 23 test examples: 7 leaves a smaller last batch
    row, outputs, targets = measured(classes)
    assert row["test_loss"] == pytest.approx(float(functional.cross_entropy(outputs.double(), targets)), rel=1e-6)
    ranks = (outputs > outputs.gather(1, targets[:, None])).sum(1)
    assert row["test_accuracy"] == pytest.approx(float((ranks < 1).double().mean()), abs=1e-7)
    assert ("test_top5" in row) == ("val_top5" in row) == (classes > 5)
    if classes > 5:
        assert row["test_top5"] == pytest.approx(float((ranks < 5).double().mean()), abs=1e-7)


def test_top5_holds_accuracy_and_misses_the_worst() -> None:
    outputs, targets = torch.arange(60.0).view(10, 6), torch.tensor([5, 4, 3, 2, 1, 0, 0, 0, 5, 5])
    found = {}
    for name, metric in Classifier(nn.Identity(), classes=6).metrics().items():
        metric.update(outputs, targets)
        found[name] = float(metric.compute())
    assert found == pytest.approx({"accuracy": 0.3, "top5": 0.7})


def test_metrics_are_fresh_at_each_call() -> None:
    module = Classifier(nn.Identity(), classes=3)
    module.metrics()["accuracy"].update(torch.eye(3), torch.tensor([0, 1, 2]))
    again = module.metrics()["accuracy"]
    again.update(torch.eye(3), torch.tensor([1, 2, 0]))
    assert float(again.compute()) == 0


def test_labels_are_smoothed_in_training_alone() -> None:
    outputs, targets = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 5
    logs = outputs.log_softmax(1)
    plain, uniform = -logs.gather(1, targets[:, None]).mean(), -logs.mean()
    module = Classifier(nn.Identity(), classes=5, label_smoothing=0.2)
    torch.testing.assert_close(module.loss(outputs, targets), 0.8 * plain + 0.2 * uniform)
    torch.testing.assert_close(module.eval().loss(outputs, targets), plain)
    assert torch.equal(Classifier(nn.Identity(), 5).loss(outputs, targets), functional.cross_entropy(outputs, targets))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_a_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing={smoothing:g}: must lie in \[0, 1\)"):
        Classifier(nn.Identity(), classes=5, label_smoothing=smoothing)


def normed() -> nn.Module:
    """Two BatchNorms with scales (0.5, -2, 0) and (-0.25, 1), one without, and a LayerNorm, which has scales too."""
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(2)
    first.weight.data, second.weight.data = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([-0.25, 1.0])
    plain = nn.BatchNorm1d(2, affine=False)
    return nn.Sequential(nn.Linear(4, 3), first, nn.Linear(3, 2), second, plain, nn.LayerNorm(2), nn.Linear(2, 5))


def test_penalty_of_scales_is_their_sum_in_training_alone_and_its_slope_the_sign() -> None:
    outputs, targets = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 5
    module = Classifier(normed(), classes=5, scale_penalty=0.1)
    plain = functional.cross_entropy(outputs, targets)
    loss = module.loss(outputs, targets)
    torch.testing.assert_close(loss, plain + 0.1 * 3.75)
    loss.backward()
    slopes = {name: weight.grad for name, weight in module.net.named_parameters() if weight.grad is not None}
    assert {name: slope.tolist() for name, slope in slopes.items()} == {
        "1.weight": pytest.approx([0.1, -0.1, 0.0]), "3.weight": pytest.approx([-0.1, 0.1])
    }  # fmt: skip
    assert torch.equal(module.eval().loss(outputs, targets), plain)
    assert torch.equal(Classifier(normed(), 5).loss(outputs, targets), plain)


def test_a_step_with_the_penalty_moves_scales_by_rate_x_penalty_x_sign() -> None:
    """Trained as a phase, by SGD without momentum: beside the same step without the penalty."""
    stream = torch.Generator().manual_seed(0)
    examples = Examples(torch.randn(12, 4, generator=stream), torch.randint(5, (12,), generator=stream))
    data = Data(examples, examples, examples, batch_size=12, shape=(4,), classes=5)
    scales = {}
    for penalty in (0.0, 0.3):
        recipe = ModuleRecipe(
            data, normed, Budget(1, 1, 1), module=partial(Classifier, classes=5, scale_penalty=penalty),
            optimizer=partial(SGD, lr=0.1), hardware=Hardware(accelerator="cpu"),
        )  # fmt: skip
        torch.manual_seed(1)
        trained = fit(recipe, Phase(state_of(normed()), {}, 0, 1, order=1, noise=2))
        scales[penalty] = torch.cat([trained.state["1.weight"], trained.state["3.weight"]])
    moved = scales[0.3] - scales[0.0]
    torch.testing.assert_close(moved, -0.1 * 0.3 * torch.tensor([1.0, -1.0, 0.0, -1.0, 1.0]))


@pytest.mark.parametrize(
    ("penalty", "net", "message"),
    [
        (-0.1, normed(), "scale_penalty=-0.1: must be a finite number of 0 or more"),
        (math.nan, normed(), "scale_penalty=nan: must be a finite number of 0 or more"),
        (math.inf, normed(), "scale_penalty=inf: must be a finite number of 0 or more"),
        (0.1, nn.Linear(4, 5), "scale_penalty=0.1: the network has no BatchNorm with scales"),
    ],
)
def test_a_penalty_that_cannot_be_is_refused(penalty: float, net: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Classifier(net, classes=5, scale_penalty=penalty)


@pytest.mark.parametrize("missing", ["loss", "metrics"])
def test_a_module_without_loss_or_metrics_says_so(missing: str) -> None:
    class Empty(Module):
        pass

    module = Empty(nn.Identity())
    with pytest.raises(TypeError, match=f"Empty must define {missing}"):
        _ = module.metrics() if missing == "metrics" else module.loss(torch.zeros(1), torch.zeros(1))


class Measuring(Module):
    """A module of the metrics that it is given."""

    def __init__(self, metrics: dict[str, Metric], headline: str, higher: bool | None = None) -> None:
        super().__init__(nn.Identity())
        self.given, self.headline, self.higher_is_better = metrics, headline, higher

    def metrics(self) -> dict[str, Metric]:
        return self.given


class Silent(MeanAbsoluteError):
    """A metric that does not declare whether higher is better."""

    higher_is_better = None


@pytest.mark.parametrize(
    ("metric", "name", "own", "known"),
    [
        (MulticlassAccuracy(3), "accuracy", None, (True, True)),
        (MulticlassF1Score(3), "f1", None, (True, True)),
        (MulticlassHammingDistance(3), "error", None, (False, True)),
        (MeanAbsoluteError(), "mae", None, (False, False)),
        (Silent(), "accuracy", None, (True, True)),  # the name tells
        (Silent(), "gap", False, (False, False)),
        (Silent(), "gap", True, (True, False)),
        (MeanAbsoluteError(), "gain", True, (True, False)),  # the module's own word counts
        (MulticlassAccuracy(3), "loss", None, (False, False)),
    ],
)
def test_which_way_a_headline_gets_better(
    metric: Metric, name: str, own: bool | None, known: tuple[bool, bool]
) -> None:
    found = headline_of(Measuring({name if name != "loss" else "accuracy": metric}, name, own))
    assert found == Headline(name, *known)


@pytest.mark.parametrize(
    ("metrics", "headline", "sentence"),
    [
        (["gap"], "gap", "its headline 'gap' does not say whether higher or lower is better; write higher_is_better = "
         "True or False into Measuring or into the metric's class"),
        (["a/b", "c"], "c", "its metric 'a/b' has a / in its name, as only what analyses find has; call it 'a_b'"),
        (["loss"], "loss", "one of its metrics is called 'loss', as the mean loss is, which is always measured"),
        (["a"], "b", "its headline is 'b'; it measures a, loss"),
    ],
)  # fmt: skip
def test_a_module_that_no_report_could_judge(metrics: list[str], headline: str, sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        headline_of(Measuring({name: Silent() for name in metrics}, headline))
    assert str(refused.value) == sentence


OWN = '''
import torch
from torch.nn import functional
from torchmetrics import MeanAbsoluteError, Metric

from lottery.data.examples import Data, Examples
from lottery.training.modules import Module


def waves(batch_size, shape, classes, noise):
    """A smooth function of four numbers."""
    inputs = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    whole = Examples(inputs, inputs.sin().sum(1, keepdim=True) + noise)
    return Data(whole[:60], whole[60:75], whole[75:], batch_size, shape, classes)


class Regressor(Module):
    headline = "mae"

    def __init__(self, net, delta):
        super().__init__(net)
        self.delta = delta

    def loss(self, outputs, targets):
        return functional.huber_loss(outputs, targets, delta=self.delta)

    def metrics(self):
        return {"mae": MeanAbsoluteError()}


class Undefined(Metric):
    """No number on 15 examples, those of validation and test; infinite on others."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs, targets):
        self.seen += len(targets)

    def compute(self):
        return torch.tensor(float("nan" if self.seen == 15 else "inf"))


class Degenerate(Regressor):
    headline = "r2"

    def metrics(self):
        return {"r2": Undefined(), "mae": MeanAbsoluteError()}


class Unsaid(Regressor):
    headline = "gap"

    def metrics(self):
        class Gap(MeanAbsoluteError):
            higher_is_better = None
        return {"gap": Gap()}
'''

REGRESSION = (
    "module._target_=my_regression.parts.Regressor", "~module.classes", "~module.label_smoothing",
    "+module.delta=0.7", "model.classes=1",
    "data._target_=my_regression.parts.waves", "~data.val_size", "~data.test_size", "+data.noise=0.5",
    "data.shape=[4]", "data.classes=null", "data.batch_size=10",
)  # fmt: skip


@pytest.fixture
def regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of one's own with a regression in it."""
    package = tmp_path / "my_regression"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_regression"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_regression_of_one_s_own_goes_all_the_way(
    regression: None, cell: Callable[..., Cell], tmp_path: Path
) -> None:
    own = cell(*REGRESSION)
    check(own)
    store = Store(tmp_path / "store")
    record_cell(own, tmp_path / "cell", store)
    lines = [json.loads(line) for line in (tmp_path / "cell" / NAME).read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]

    test = own.study.recipe.data.test
    net = own.study.recipe.network().eval()
    for line in lines:
        assert not any("accuracy" in key for key in line)
        entry = store.find(line["phase"])
        assert entry is not None
        net.load_state_dict(entry.state)
        with torch.no_grad():
            error = net(test.inputs) - test.targets
        assert line["test_mae"] == pytest.approx(float(error.abs().mean()), rel=1e-6)
        huber = torch.where(error.abs() < 0.7, error.square() / 2, 0.7 * (error.abs() - 0.35)).mean()
        assert line["test_loss"] == pytest.approx(float(huber), rel=1e-6)
        best = min(entry.rows, key=lambda row: row["val_loss"])
        assert line["early_stop_test_mae"] == best["test_mae"]
        assert math.isfinite(line["val_mae"])
        assert (line["headline_better"], line["headline_scale"]) == ("lower", "other")
    assert lines[0]["density"] == 1 > lines[1]["density"] > lines[2]["density"]
    frame = read(tmp_path / "cell")
    assert headline(frame) == Headline("mae", higher_is_better=False, share=False)
    write(frame, tmp_path / "report")
    assert headline(read(tmp_path / "report" / "results.csv")) == headline(frame)


def test_a_line_that_was_written_before_it_said_which_way_is_better_is_the_same_result(
    regression: None, cell: Callable[..., Cell], tmp_path: Path
) -> None:
    own, store, path = cell(*REGRESSION), Store(tmp_path / "store"), tmp_path / "cell" / NAME
    record_cell(own, tmp_path / "cell", store)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    older = [{key: value for key, value in line.items() if not key.startswith("headline_")} for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in older[:2]))
    record_cell(own, tmp_path / "cell", store)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    assert again[:2] == older[:2]
    assert {**again[2], "run": None} == {**lines[2], "run": None}
    assert not headline(read(tmp_path / "cell")).higher_is_better  # one line that says so is enough


def test_a_headline_that_is_no_number_ends_nothing(
    regression: None, cell: Callable[..., Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = cell(*REGRESSION, "module._target_=my_regression.parts.Degenerate", "hardware.checkpoint_seconds=1e-6")
    check(own)
    store, folder = Store(tmp_path / "store"), tmp_path / "cell"
    record_cell(own, folder, store, [Progress(own, folder)])
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert {line[key] for key in ("test_r2", "val_r2", "early_stop_test_r2")} == {None}
        assert math.isfinite(line["test_mae"])
    assert "test r2 is no finite number" in capsys.readouterr().out
    frame = read(folder)
    assert frame["test_r2"].isna().all()
    report = render(frame)
    assert (
        "In 3 of the 3 rounds of all seeds test r2 is no finite number; means and differences leave them out." in report
    )
    assert report.count("no number") == 3
    write(frame, tmp_path / "report")
    assert render(read(tmp_path / "report" / "results.csv")) == report


def test_a_headline_that_nobody_can_judge_is_refused_before_training(
    regression: None, cell: Callable[..., Cell]
) -> None:
    with pytest.raises(Refused, match=r"^module: its headline 'gap' does not say whether higher or lower is better; w"):
        check(cell(*REGRESSION, "module._target_=my_regression.parts.Unsaid"))
