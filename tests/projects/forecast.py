"""An LSTM that says what comes next in a noisy wave."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError


class WavesModule(pl.LightningDataModule):
    """Writes its series to a file once, as a download would, and reads them on setup."""

    def __init__(self, batch_size=32, workers=0, n=320, root="waves"):
        super().__init__()
        self.batch_size, self.workers, self.n = batch_size, workers, n
        self.path = Path(root) / f"{n}.npy"

    def prepare_data(self):
        if self.path.exists():
            return
        rng = np.random.default_rng(7)
        speed, phase = rng.uniform(0.2, 0.6, (self.n, 1)), rng.uniform(0, 6, (self.n, 1))
        series = np.sin(speed * np.arange(21) + phase) + rng.normal(0, 0.05, (self.n, 21))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        np.save(self.path, series.astype(np.float32))

    def setup(self, stage=None):
        series = torch.from_numpy(np.load(self.path))
        sets = TensorDataset(series[:, :-1, None], series[:, -1])
        generator = torch.Generator().manual_seed(1)
        self.train_set, self.val_set, self.test_set = torch.utils.data.random_split(sets, [0.8, 0.1, 0.1], generator)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.batch_size, num_workers=self.workers)


class LitForecaster(pl.LightningModule):
    def __init__(self, lr=1e-2, width=24, layers=1):
        super().__init__()
        self.save_hyperparameters()
        self.lstm = nn.LSTM(1, width, layers, batch_first=True)
        self.out = nn.Linear(width, 1)
        self.val_mae = MeanAbsoluteError()
        self.test_mae = MeanAbsoluteError()

    def forward(self, x):
        hidden, _ = self.lstm(x)
        return self.out(hidden[:, -1]).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        self.log("lr", self.lr_schedulers().get_last_lr()[0])
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_mae.update(self(x), y)
        self.log("val_mae", self.val_mae, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.test_mae.update(self(x), y)
        self.log("test_mae", self.test_mae, on_step=False, on_epoch=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
