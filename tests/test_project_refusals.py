"""What no round of a Lightning project can be trained with is said by name, before training where it can be known."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import Accuracy

from lottery.config.build import build
from lottery.config.check import check, note
from lottery.config.compose import cell_configs
from lottery.foundations.errors import Refused, Said
from lottery.rounds.study import Cell
from lottery.training.fit import fit
from lottery.training.lightning.loop.refusals import check_callbacks
from lottery.training.lightning.module.headline import headline_among
from lottery.training.lightning.module.measuring import Logged
from lottery.training.lightning.module.requirements import check_module
from lottery.training.lightning.trainers import checked_arguments
from lottery.training.states import state_of, weights
from tests.few import few
from tests.lightning import ADVICE, differing, phase_of
from tests.projects import odd

pytestmark = ADVICE


def cell_of(model: str, *more: str, data: str = "Rows") -> Cell:
    line = [f"model._target_=tests.projects.odd.{model}", f"data._target_=tests.projects.odd.{data}"]
    return build(cell_configs([*line, "budget.steps=2ep", "tracking.mode=disabled", "hardware=cpu", *more])[0])


def refused(model: str, *more: str) -> str:
    with pytest.raises(Refused) as why:
        check(cell_of(model, *more))
    assert "\n" not in str(why.value)
    return str(why.value)


AVERAGE = "a hook or a callback puts another net.0.weight in place while it validates, such as an average (EMA, SWA)"


@pytest.mark.parametrize(
    ("model", "more", "said"),
    few([
        ("Averaged", [], AVERAGE),
        ("Averaged", ["model.puts=on_train_end", "model.back=null"], "or that of a callback, sets net.0.weight after"),
        ("Averaged", ["trainer.check_val_every_n_epoch=2"], AVERAGE),
        ("Averaged", ["model.back=on_validation_epoch_end"], AVERAGE),
        ("Begins", [], "model: its on_fit_start or on_train_start, or that of a callback, sets net.0.weight as each"),
        ("Late", [], "model: head.bias is new once training begins: its on_fit_start changes which weights"),
        ("Late", ["model.ties=true"], "model: other.weight is another weight now once training begins"),
        ("Idle", [], "model: its training_step gives no loss for any of the first 2 steps"),
        ("Plateau", ["trainer.check_val_every_n_epoch=2"],
         "a scheduler that monitors val_loss at every epoch, and trainer.check_val_every_n_epoch=2 logs it at every 2"),
        ("Finds", [], "model: its configure_callbacks gives LearningRateFinder; leave it out: each round would look"),
        ("Lit", ["arm.first=3"], "arm.first=3: its weights come without where training stood at that step"),
        ("Counts", [], "where nothing keeps it; register it as a buffer; what has changed is seen (list)"),
        ("Draws", [], "from no generator of its own; what has changed is rng (Generator)"),
        ("Writes", [], "model: Writes.on_fit_start fails: TypeError: expected str, bytes or os.PathLike object"),
        ("Shows", [], "model: Shown.on_validation_epoch_end fails: IndexError: pop from empty list (odd.py, line "),
    ], 3),
)  # fmt: skip
def test_it_is_said_before_training(model: str, more: list[str], said: str) -> None:
    assert said in refused(model, *more)


@pytest.mark.parametrize("model", few(["Teacher", "Configured"], 2))
def test_what_can_be_trained_is(model: str) -> None:
    check(cell_of(model))


def test_weights_that_change_after_the_last_validation_are_those_that_the_row_is_of() -> None:
    recipe: Any = cell_of("Bounded").study.recipe
    trained = fit(recipe, phase_of(recipe))
    assert float(trained.state["net.0.weight"].abs().max()) == pytest.approx(0.1)
    test = torch.utils.data.DataLoader(odd.rows(40), 40)
    module = odd.Lit()
    module.load_state_dict(weights(trained.state))
    assert trained.rows[-1]["test_loss"] == pytest.approx(module.loss(next(iter(test))).item(), rel=1e-6)


def test_an_average_beyond_the_first_steps_ends_the_round() -> None:
    """From the second epoch on, as many begin to average: the two steps before training can't show it."""

    class Later(odd.Average):
        def put(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.own = [p.detach().clone() for p in module.parameters()]
            if trainer.current_epoch:
                self.copy(module, self.shadow)

    recipe: Any = cell_of("Lit").study.recipe
    own = recipe.network

    def network() -> nn.Module:
        module = own()
        module.configure_callbacks = lambda: [Later()]
        return module

    object.__setattr__(recipe, "network", network)
    with pytest.raises(Refused, match=r"puts another net\.0\.weight in place while it validates"):
        fit(recipe, phase_of(recipe))


@pytest.mark.parametrize(
    ("callback", "why"),
    [
        (pl.callbacks.ModelPruning("l1_unstructured", amount=0.5), "masks are the framework's"),
        (pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2}), "trainer.accumulate_grad_batches=2 is the same"),
        (pl.callbacks.LearningRateFinder(), "each round would look for a rate of its own"),
        (pl.callbacks.BatchSizeFinder(), "each round would look for a size of its own"),
        (pl.callbacks.Timer("00:00:05:00"), "every round trains equally long"),
        (pl.callbacks.EarlyStopping("val_loss"), "every round trains equally long"),
        (pl.callbacks.RichProgressBar(), "progress is shown by the framework"),
    ],
)
def test_callbacks_are_refused_by_name(callback: pl.Callback, why: str) -> None:
    with pytest.raises(Refused, match=f"gives {type(callback).__name__}; leave it out: .*{why}"):
        check_callbacks(SimpleNamespace(callbacks=[pl.callbacks.LearningRateMonitor(), callback]))


def _without(name: str) -> pl.LightningModule:
    return type("Mine", (odd.Lit,), {name: getattr(pl.LightningModule, name)})()


def _lazy() -> pl.LightningModule:
    module = odd.Lit()
    module.net[0] = nn.LazyLinear(16)
    return module


def _extra() -> pl.LightningModule:
    return type("Mine", (odd.Lit,), {"get_extra_state": lambda self: {"k": 3}})()


def _partial() -> pl.LightningModule:
    state = {"state_dict": lambda self, *a, **k: {"net.2.weight": torch.zeros(2, 16)}}
    return type("Mine", (odd.Lit,), state)()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (_without("training_step"), "Mine has no training_step, whose loss is trained"),
        (_without("validation_step"), "Mine has no validation_step, whose"),
        (_without("test_step"), "Mine has no test_step, whose"),
        (_without("configure_optimizers"), "Mine has no configure_optimizers, which"),
        (_lazy(), "net.0.weight belongs to a lazy layer"),
        (_extra(), "its state_dict has _extra_state, a dict"),
        (_partial(), "its state_dict leaves out net.0.weight"),
    ],
)
def test_modules_are_refused_by_what_they_lack(module: pl.LightningModule, said: str) -> None:
    with pytest.raises(Refused, match=f"model: {said}"):
        check_module(module)
    check_module(odd.Lit())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("limit_val_batches", 0, "must be above 0; a curve needs what val steps log"),
        ("limit_test_batches", 0.0, "must be above 0; a curve needs what test steps log"),
        ("check_val_every_n_epoch", 0, "must be a whole number, 1 or more"),
        ("val_check_interval", 0, "must be above 0, a number of batches or a share"),
        ("accumulate_grad_batches", True, "must be a whole number, 1 or more"),
    ],
)
def test_arguments_that_leave_nothing_to_look_at(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.{name}=.*: {said}"):
        checked_arguments({name: value})
    assert checked_arguments({"check_val_every_n_epoch": None, "val_check_interval": 5, "limit_val_batches": 1})


def logged(part: str, *names: str, metric: Any = None) -> Logged:
    rows = {f"{part}_{name}": f"{part}_{name.replace('/', '_')}" for name in names}
    return Logged(rows, dict.fromkeys(rows.values(), metric) if metric else {})


def test_several_loaders_log_under_names_of_their_own() -> None:
    two = [f"acc/dataloader_idx_{index}" for index in (0, 1)]
    with pytest.raises(Refused, match=r"headline=null: must be .* validation logs val_acc/dataloader_idx_0, .*1 and "
                       r"test logs test_acc \(Lightning adds dataloader_idx where there are several"):  # fmt: skip
        headline_among(logged("val", *two), logged("test", "acc"), None, None)
    found = headline_among(logged("val", *two), logged("test", *two), "acc_dataloader_idx_1", None)
    assert found.higher_is_better
    assert found.share


def test_a_metric_of_one_of_several_loaders_says_its_direction() -> None:
    class Two(odd.Lit):
        def __init__(self) -> None:
            super().__init__()
            self.quality = Accuracy("binary")

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.quality.update(self.net(batch[0]).argmax(1), batch[1])
            self.log("test_quality", self.quality)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.quality.update(self.net(batch[0]).argmax(1), batch[1])
            self.log("val_quality", self.quality)

    cell = cell_of("Lit", "headline=quality_dataloader_idx_1")
    recipe: Any = cell.study.recipe
    for part in ("val", "test"):
        loaders = [recipe.data.loader(part)] * 2
        setattr(recipe.data.at(part), f"{part}_dataloader", lambda loaders=loaders: loaders)
    object.__setattr__(recipe, "network", Two)
    assert recipe.headline.higher_is_better


@pytest.mark.parametrize("model", ["Seeds", "Lit"])
def test_seeds_that_begin_alike_are_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    cell = cell_of(model)
    note(cell, note(cell, set()))
    said = capsys.readouterr().out
    assert said.count("every seed begins with the same weights") == (model == "Seeds")


@pytest.mark.parametrize(
    ("more", "said"),
    few([
        (["data.workers=1"], "data: __getitem__ fails in a worker: KeyError: 'label' (odd.py, line "),
        ([], "data: Rare.__getitem__ fails: KeyError: 'label' (odd.py, line "),
        (["data.workers=1", "data.dies=true"], "data: a worker of a DataLoader died while it read"),
    ], 1),
)  # fmt: skip
def test_data_that_fail_late_are_named(more: list[str], said: str) -> None:
    recipe: Any = cell_of("Lit", *more, data="RareRows").study.recipe
    with pytest.raises(Said) as why:
        fit(recipe, phase_of(recipe))
    told = str(why.value)
    del why
    gc.collect()  # else PyTorch goes on to watch the dead worker, and raises in whatever test comes next
    assert said in told
    assert "\n" not in told


def test_configured_layers_are_those_that_are_drawn_for_the_seed() -> None:
    recipe: Any = cell_of("Configured").study.recipe
    assert differing(state_of(recipe.build(1)), state_of(recipe.build(2)))
    assert not differing(state_of(recipe.build(1)), state_of(recipe.build(1)))


@pytest.mark.slow
def test_a_file_that_an_argument_names_counts_by_what_is_in_it(tmp_path: Path) -> None:
    found = []
    for name, width in (("one.json", 16), ("other.json", 16), ("one.json", 32)):
        (tmp_path / name).write_text(json.dumps({"width": width}))
        found.append(cell_of("Reads", f"model.settings={tmp_path / name}").study.identity)
    assert found[0] == found[1]
    assert found[0] != found[2]
