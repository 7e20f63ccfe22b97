"""Lightning projects on the command line: names, what is refused, and a whole study."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.config.projects import added
from lottery.foundations.errors import Refused
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.lightning.project import Project
from tests.few import few
from tests.lightning import ADVICE, Kept, cell_of, differing, phase_of, words

pytestmark = ADVICE
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_project_s_node_holds_what_is_given_alone() -> None:
    [job] = cell_configs(words("siamese", "data.batch_size=10", "trainer.gradient_clip_val=1.0"))
    assert job.config["data"] == {"_target_": "tests.projects.siamese.PairsModule", "batch_size": 10}
    assert job.config["model"] == {"_target_": "tests.projects.siamese.LitSiamese"}
    assert job.study.startswith("LitSiamese-PairsModule-")


@pytest.mark.parametrize(
    "more",
    few(["model.lr=0.5", "trainer.gradient_clip_val=1.0", "data.batch_size=7", "headline=loss", "budget.steps=3ep"], 2),
)
def test_what_changes_a_number_changes_the_name(more: str) -> None:
    [one], [other] = cell_configs(words("siamese")), cell_configs([*words("siamese"), more])
    assert one.study != other.study


@pytest.mark.parametrize("more", few(["data.workers=2", "trainer.log_every_n_steps=1"], 1))
def test_what_changes_no_number_changes_no_name(more: str) -> None:
    [one], [other] = cell_configs(words("siamese")), cell_configs([*words("siamese"), more])
    assert one.study == other.study


def test_keys_of_a_project_need_no_plus() -> None:
    line = ["data._target_=a.B", "data.n=1,2", "trainer.precision=32", "model.width=3", "seed=0"]
    assert added(line) == ["data._target_=a.B", "++data.n=1,2", "++trainer.precision=32", "model.width=3", "seed=0"]


@pytest.mark.parametrize(
    ("more", "said"),
    few([
        (["optimizer=sgd"], "is not read with a LightningModule; configure_optimizers"),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1: is not read with a LightningModule"),
        (["budget.evaluate=50"], "budget.evaluate=50: is not read with a LightningModule"),
        (["trainer.max_epochs=3"], "trainer.max_epochs=3: is set by the framework; use budget.steps"),
        (["trainer.gradient_clip=1"], "Lightning's Trainer has no such argument; did you mean gradient_clip"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: must be a whole number"),
        (["model.widht=3"], "model.widht=3: tests.projects.segmenter.LitUNet has no such argument"),
        (["better=up"], "better=up: must be higher, lower or null"),
        (["headline=iou"], "headline=iou: must be logged by validation_step and by test_step; validation logs val/"),
        (["arm=finetune"], "arm: finetune trains at learning rates of its own"),
        (["hardware.devices=2", "data.batch_size=1"], "hardware.devices=2: a training batch has"),
        (["numerics.compile=true"], "numerics.compile=true: is for modules of ours"),
        (["data._target_=tests.projects.segmenter.Discs", "data.n=5", "data.seed=0", "data.batch_size=5"],
         "data.batch_size=5: tests.projects.segmenter.Discs has no such argument"),
        (["data._target_=tests.projects.segmenter.Discs", "data.n=5", "data.seed=0"], "data: gives a Discs"),
        (["data._target_=builtins.dict"], "Loaders.train_dataloader gives no loader"),
    ], 8),
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_before_training(more: list[str], said: str) -> None:
    line = [
        word for word in words("segmenter") if word.partition("=")[0] not in {each.partition("=")[0] for each in more}
    ]
    with pytest.raises(Refused, match=r".") as refused:
        check(build(cell_configs([*line, *more])[0]))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


MINE = """
import numpy as np, pytorch_lightning as pl, torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, IterableDataset

def sets(n):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n)); return TensorDataset(x, (x[:, 0] > 0).long())

class Rows(pl.LightningDataModule):
    def train_dataloader(self): return DataLoader(sets(64), 8, shuffle=True)
    def val_dataloader(self): return DataLoader(sets(32), 8)
    def test_dataloader(self): return DataLoader(sets(40), 8)

class NoTest(Rows):
    test_dataloader = pl.LightningDataModule.test_dataloader

class Broken(Rows):
    def prepare_data(self): raise ConnectionError("no route to the host")

def by_part(): return {"train": sets(64), "val": sets(32), "test": sets(40), "batch_size": 8}

class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(64): yield torch.randn(6), 1

class Streamed(Rows):
    def train_dataloader(self): return DataLoader(Stream(), 8)

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        self.seen = 0
    def loss(self, batch): return F.cross_entropy(self.net(batch[0]), batch[1])
    def training_step(self, batch, batch_idx): return self.loss(batch)
    def validation_step(self, batch, batch_idx): self.log("val_loss", self.loss(batch))
    def test_step(self, batch, batch_idx): self.log("test_loss", self.loss(batch))
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)

class Unseeded(Lit):
    def training_step(self, batch, batch_idx): return self.loss(batch) * float(np.random.default_rng().uniform())

class Hidden(Lit):
    def training_step(self, batch, batch_idx):
        self.seen += 1
        return self.loss(batch)
    def validation_step(self, batch, batch_idx): self.log("val_loss", self.loss(batch) + self.seen)

class NoStep(Lit):
    training_step = pl.LightningModule.training_step

class NoOptimizer(Lit):
    def configure_optimizers(self): return None

class Plateau(Lit):
    def configure_optimizers(self):
        o = torch.optim.SGD(self.parameters(), 0.1)
        return [o], [{"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o), "monitor": "val_f1"}]

class Odd(Lit):
    def validation_step(self, batch, batch_idx): self.log("val_sharpness", self.loss(batch))
    def test_step(self, batch, batch_idx): self.log("test_sharpness", self.loss(batch))

class Early(Lit):
    def configure_callbacks(self): return [pl.callbacks.EarlyStopping("val_loss")]

class Averages(Lit):
    def configure_callbacks(self): return [pl.callbacks.WeightAveraging()]

class Counts(Lit):
    def training_step(self, batch, batch_idx):
        self.seen += 1
        return self.loss(batch) * (1 + self.seen)

class Stops(Lit):
    def on_train_start(self): self.stop = True
    def training_step(self, batch, batch_idx):
        if self.trainer.global_step >= 5: self.trainer.should_stop = True; return None
        return self.loss(batch)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def checked(mine: str, model: str, data: str, *more: str) -> Any:
    line = [f"model._target_={mine}.{model}", f"data._target_={mine}.{data}", "budget.steps=2ep", "schedule.rounds=1"]
    cell = build(cell_configs([*line, "tracking.mode=disabled", *more])[0])
    check(cell)
    return cell


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("Lit", "NoTest", "data: NoTest has no test_dataloader, which a curve needs"),
        ("Lit", "Broken", "data: Broken can't be set up: ConnectionError: no route to the host"),
        ("Unseeded", "Rows", "two trainings under one seed differ in net."),
        ("Hidden", "Rows", "lies outside its state_dict"),
        ("NoStep", "Rows", "training_step"),
        ("NoOptimizer", "Rows", "configure_optimizers"),
        ("Plateau", "Rows", "val_f1"),
        ("Early", "Rows", "its configure_callbacks gives EarlyStopping"),
        ("Averages", "Rows", "its configure_callbacks gives WeightAveraging"),
        ("Counts", "Rows", "resumed after its first step it trains net."),
        ("Odd", "Rows", "headline=sharpness: nothing says whether higher or lower is better; better="),
        ("Lit", "Stream", "data: gives a Stream; a LightningModule takes a LightningDataModule"),
        ("Lit", "Streamed", "have no length; trainer.limit_train_batches"),
    ],
)
def test_a_project_that_can_not_be_trained_is_refused_by_name(mine: str, model: str, data: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        checked(mine, model, data)
    assert said in str(refused.value)


def test_data_sets_by_part_need_no_data_module(mine: str) -> None:
    assert checked(mine, "Lit", "by_part").study.recipe.data.steps_per_epoch == 8


def test_a_stream_goes_on_anywhere_and_begins_anywhere(mine: str) -> None:
    recipe = checked(mine, "Lit", "Streamed", "trainer.limit_train_batches=8").study.recipe
    recipe = replace(recipe, hardware=Hardware(accelerator="cpu", checkpoint_seconds=1e-9))
    assert not recipe.data.free_of_workers
    keeper = Kept()
    whole = fit(recipe, phase_of(recipe), keeper, waypoints=[3])
    assert len(keeper.saved) > 10
    for begin in keeper.saved[::3]:
        assert not differing(fit(recipe, phase_of(recipe), Kept(begin)).state, whole.state), begin[1]["step"]
    assert not differing(fit(recipe, phase_of(recipe, last=3)).state, keeper.passed[3])


def test_a_project_that_stops_itself_ends_its_cell_with_a_sentence(
    mine: str, lottery: Callable[..., CompletedProcess[str]]
) -> None:
    line = [f"model._target_={mine}.Stops", f"data._target_={mine}.Rows", "budget.steps=2ep", "schedule.rounds=1"]
    done = lottery("run", *line, "tracking.mode=disabled")
    assert done.returncode == 1
    assert re.search(r"ended by itself at step \d of 16", done.stdout + done.stderr)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("kind", few(["gan", "classifier", "language"], 1))
def test_snip_asks_a_project_through_its_training_step(kind: str) -> None:
    cell = cell_of(kind, "criterion=snip", "schedule.rounds=1")
    check(cell)
    assert isinstance(cell.study.recipe, Project)


def test_a_whole_study_of_a_project_is_one_command(
    lottery: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copy(HERE / "projects" / "segmenter.py", tmp_path)
    line = ["model._target_=segmenter.LitUNet", "data._target_=segmenter.DiscsModule", "data.batch_size=32"]
    line += ["budget.steps=2ep", "arm=lr_rewind", "arm.rewind=3it", "schedule.rounds=2", "headline=dice"]
    line += ["tracking.mode=disabled"]
    done = lottery("run", *line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test dice" in done.stdout.lower()
    [path] = tmp_path.glob("runs/*/*/*/ledger.jsonl")
    rounds = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["train_steps"] for row in rounds] == [16, 13, 13]
    assert rounds[-1]["density"] == pytest.approx(0.64, abs=0.01)
    again = lottery("run", *line)
    assert "1 of 1 cells are finished already" in again.stdout
    ticket = lottery("ticket", "export", str(path.parent), "--round", "1", "-o", "found.safetensors")
    assert ticket.returncode == 0, ticket.stdout + ticket.stderr
    verified = lottery("ticket", "verify", "found.safetensors", "--trust", "segmenter")
    assert verified.returncode == 0, verified.stdout + verified.stderr
