"""Image classifier with mixup and a one-cycle learning rate."""

import random

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy


class Pictures(Dataset):
    """Coloured squares, whose corner tells the class."""

    def __init__(self, n, seed, train=False):
        rng = np.random.default_rng(seed)
        self.train = train
        self.labels = rng.integers(0, 4, n)
        self.images = rng.normal(0, 0.5, (n, 3, 12, 12)).astype(np.float32)
        for image, label in zip(self.images, self.labels, strict=True):
            row, column = divmod(int(label), 2)
            image[:, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 0.7

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        if self.train:
            if random.random() < 0.5:
                image = np.roll(image, random.randint(-1, 1), axis=2)
            image = image + np.random.normal(0, 0.1, image.shape).astype(np.float32)
        return torch.from_numpy(image), int(self.labels[index])


class PicturesModule(pl.LightningDataModule):
    def __init__(self, batch_size=32, workers=0, n=320):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        n = self.hparams.n
        self.train_set = Pictures(n, seed=0, train=True)
        self.val_set, self.test_set = Pictures(n // 4, seed=1), Pictures(n // 4, seed=2)

    def loader(self, dataset, shuffle=False):
        return DataLoader(dataset, self.hparams.batch_size, shuffle=shuffle, num_workers=self.hparams.workers)

    def train_dataloader(self):
        return self.loader(self.train_set, shuffle=True)

    def val_dataloader(self):
        return self.loader(self.val_set)

    def test_dataloader(self):
        return self.loader(self.test_set)


class LitClassifier(pl.LightningModule):
    def __init__(self, lr=0.02, width=8, dropout=0.1, alpha=0.4):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(18 * width, 4),
        )  # fmt: skip
        self.train_acc, self.val_acc, self.test_acc = (MulticlassAccuracy(4, average="micro") for _ in range(3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        share = float(np.random.beta(self.hparams.alpha, self.hparams.alpha))
        other = torch.randperm(len(x), device=x.device)
        logits = self(share * x + (1 - share) * x[other])
        loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[other])
        self.train_acc(logits, y)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_acc(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", self.val_acc, prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.test_acc(self(x), y)
        self.log("test_acc", self.test_acc)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9, weight_decay=5e-4)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.hparams.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
