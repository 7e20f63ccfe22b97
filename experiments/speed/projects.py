"""What guiding a user's LightningModule costs: the same project by plain Lightning and as a round, step for step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from experiments.speed.rows import Row, at_least
from lottery.foundations.seeds import seeded
from lottery.pruning.masks import Masks
from lottery.rounds.round import initial
from lottery.training.fit import fit
from lottery.training.hardware import Hardware
from lottery.training.lightning.data.loaders import Loaders
from lottery.training.lightning.data.project_data import ProjectData
from lottery.training.lightning.project import Project
from lottery.training.phase import Phase
from lottery.training.recipes import Budget

PAIRS, STEPS, WARM = 15, 700, 100
"""pairs of trainings, steps in each, and how many of them are not timed"""


class LitConv(pl.LightningModule):
    """A small convolutional network on 3x32x32 inputs, whose step takes some milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2),
            nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 49, 10),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


class Clock(pl.Callback):
    """Notes the CPU time at which step WARM and the last step are done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM, STEPS):
            self.times.append(time.process_time())


def sets() -> dict[str, Any]:
    """Random pictures: one epoch is a whole training, without validation in between."""
    rng = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.randn(32, 3, 32, 32, generator=rng), torch.randint(0, 10, (32,), generator=rng))
    many = TensorDataset(*(part.repeat(STEPS, *[1] * (part.ndim - 1)) for part in rows.tensors))
    return {"train": DataLoader(many, 32, shuffle=True), "val": DataLoader(rows, 32), "test": DataLoader(rows, 32)}


def measure() -> Iterator[Row]:
    """Steps a CPU second of a round under masks of 20 %, over those of plain Lightning without any."""
    torch.set_num_threads(1)
    clocks: list[Clock] = []

    def network() -> LitConv:
        module = LitConv()
        clocks.append(Clock())
        module.configure_callbacks = lambda: [clocks[-1]]  # type: ignore[method-assign]  # of this module
        return module

    recipe = Project(
        ProjectData(Loaders(sets(), None)), network, Budget(STEPS, STEPS, STEPS), hardware=Hardware(accelerator="cpu")
    )
    state = initial(recipe, 0)
    rng = torch.Generator().manual_seed(1)
    masks: Masks = {n: torch.rand(w.shape, generator=rng) < 0.2 for n, w in recipe.prunable(recipe.net).items()}
    ratios = []
    for _ in range(PAIRS + 1):
        with seeded(0):
            trainer = pl.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, num_sanity_val_steps=0,
            )  # fmt: skip
            trainer.fit(network(), datamodule=recipe.data.module)
            begin, end = clocks[-1].times
            plain = end - begin
        fit(recipe, Phase(state, masks, 0, STEPS, order=0, noise=0))
        begin, end = next(each.times for each in reversed(clocks) if len(each.times) == 2)
        ratios.append(plain / (end - begin))
    what = "A Lightning project: steps/s of a pruned round over plain Lightning, a small convolutional network"
    yield at_least(what, ratios[1:], 0.97)
