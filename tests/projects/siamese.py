"""A siamese network: do two signals have the same shape?"""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler


class Pairs(Dataset):
    """Pairs of noisy waves out of five kinds; few pairs are the same."""

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        kinds = np.sin(np.linspace(0, 6, 24) * np.arange(1, 6)[:, None])
        left, right = rng.integers(0, 5, (2, n))
        self.a, self.b = (
            torch.tensor(kinds[side] + rng.normal(0, 0.3, (n, 24)), dtype=torch.float32) for side in (left, right)
        )
        self.same = torch.tensor(left == right)

    def __len__(self):
        return len(self.same)

    def __getitem__(self, index):
        return (self.a[index], self.b[index]), self.same[index]


class PairsModule(pl.LightningDataModule):
    def __init__(self, batch_size=20, workers=0, n=400):
        super().__init__()
        self.batch_size = batch_size
        self.workers = workers
        self.train_set, self.val_set, self.test_set = Pairs(n, 0), Pairs(n // 4, 1), Pairs(n // 4, 2)

    def train_dataloader(self):
        same = self.train_set.same.double()
        weights = same / same.sum() + (1 - same) / (1 - same).sum()
        sampler = WeightedRandomSampler(weights.tolist(), num_samples=len(same))
        return DataLoader(self.train_set, self.batch_size, sampler=sampler, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.batch_size, num_workers=self.workers)


class LitSiamese(pl.LightningModule):
    """Keeps a slow average of its training loss, which goes into checkpoints with the weights."""

    def __init__(self, lr: float = 5e-3, width: int = 32, margin: float = 1.0):
        super().__init__()
        self.lr, self.margin = lr, margin
        self.encoder = nn.Sequential(
            nn.Linear(24, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 8),
        )  # fmt: skip
        self.register_buffer("average_loss", torch.tensor(0.5))

    def forward(self, a, b):
        return F.pairwise_distance(self.encoder(a), self.encoder(b))

    def training_step(self, batch, batch_idx):
        (a, b), same = batch
        distance = self(a, b)
        loss = torch.where(same, distance**2, (self.margin - distance).clamp(min=0) ** 2).mean()
        self.average_loss.mul_(0.95).add_(0.05 * loss.detach())
        self.log("train_loss", loss)
        self.log("train_loss_ema", self.average_loss)
        return loss

    def evaluate(self, batch, stage):
        (a, b), same = batch
        correct = (self(a, b) < self.margin / 2) == same
        self.log(f"{stage}_accuracy", correct.float().mean(), batch_size=len(same), prog_bar=True)

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
