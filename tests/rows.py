"""The smallest Lightning project of tests: rows of numbers, one linear network with what changes by mode."""

from __future__ import annotations

import math

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Rows(pl.LightningDataModule):
    def __init__(self, n=64, batch_size=8, workers=0):
        super().__init__()
        self.n, self.batch_size, self.workers = n, batch_size, workers

    def loader(self, n, shuffle=False):
        inputs = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
        sets = TensorDataset(inputs, (inputs[:, :2].sum(1) > 0).long())
        return DataLoader(sets, self.batch_size, shuffle=shuffle, num_workers=self.workers)

    def train_dataloader(self):
        return self.loader(self.n, shuffle=True)

    def val_dataloader(self):
        return self.loader(32)

    def test_dataloader(self):
        return self.loader(40)


class LitRows(pl.LightningModule):
    """Two hidden layers, a scheduler for each step, momentum, noise drawn in each step."""

    def __init__(self, lr=0.05, dropout=0.2, noise=0.1, adam=False):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def measured(self, batch, part):
        outputs = self(batch[0])
        self.log(f"{part}/loss", functional.cross_entropy(outputs, batch[1]))
        self.log(f"{part}/error", (outputs.argmax(1) != batch[1]).float().mean())

    def training_step(self, batch, batch_idx):
        x = batch[0] + self.hparams.noise * torch.randn_like(batch[0])
        loss = functional.cross_entropy(self(x), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.measured(batch, "val")

    def test_step(self, batch, batch_idx):
        self.measured(batch, "test")

    def configure_optimizers(self):
        kind = torch.optim.Adam if self.hparams.adam else torch.optim.SGD
        more = {} if self.hparams.adam else {"momentum": 0.9}
        optimizer = kind(self.parameters(), lr=self.hparams.lr, **more)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LitFrozen(LitRows):
    """The first BatchNorm stays in evaluation mode."""

    def train(self, mode=True):
        super().train(mode)
        self.net[1].eval()
        return self


class LitLost(LitRows):
    """Its test has no finite value."""

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.log("test/score", math.nan)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/score", math.nan)
