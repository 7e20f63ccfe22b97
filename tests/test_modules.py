"""Modules: what they measure, and that a user's own goes all the way without a file of ours touched."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from lottery import evaluation
from lottery.cells import Cell
from lottery.data.examples import Data, Examples
from lottery.hardware import Hardware
from lottery.ledger import NAME
from lottery.modules import Classifier, Module
from lottery.recipes import Budget, Phase, Recipe
from lottery.rewinding import state_of
from lottery.store import Store
from lottery.study import run
from lottery.training import fit


def measured(classes: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """The last row of a short training, with the trained network's outputs and the targets of the test part."""
    stream = torch.Generator().manual_seed(classes)
    whole = Examples(torch.randn(60, 4, generator=stream), torch.randint(classes, (60,), generator=stream))
    data = Data(whole[:20], whole[20:37], whole[37:], batch_size=5, shape=(4,), classes=classes)

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 12), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, classes))

    recipe = Recipe(
        data, network, partial(Classifier, classes=classes), partial(SGD, lr=0.1), Budget(8, 8, 8),
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


@pytest.mark.parametrize("missing", ["loss", "metrics"])
def test_a_module_without_loss_or_metrics_says_so(missing: str) -> None:
    class Empty(Module):
        pass

    module = Empty(nn.Identity())
    with pytest.raises(TypeError, match=f"Empty must define {missing}"):
        _ = module.metrics() if missing == "metrics" else module.loss(torch.zeros(1), torch.zeros(1))


OWN = '''
import torch
from torch.nn import functional
from torchmetrics import MeanAbsoluteError

from lottery.data.examples import Data, Examples
from lottery.modules import Module


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
'''


def test_a_regression_of_one_s_own_goes_all_the_way(
    cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_regression"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = cell(
        "module._target_=my_regression.parts.Regressor", "~module.classes", "~module.label_smoothing",
        "+module.delta=0.7", "model.classes=1",
        "data._target_=my_regression.parts.waves", "~data.val_size", "~data.test_size", "+data.noise=0.5",
        "data.shape=[4]", "data.classes=null", "data.batch_size=10",
    )  # fmt: skip
    store = Store(tmp_path / "store")
    run(own, tmp_path / "cell", store)
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
    assert lines[0]["density"] == 1 > lines[1]["density"] > lines[2]["density"]
    for name in [name for name in sys.modules if name.split(".")[0] == "my_regression"]:
        monkeypatch.delitem(sys.modules, name)
