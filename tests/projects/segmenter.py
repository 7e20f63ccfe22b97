"""A small U-Net that segments discs, with a loss of Dice and cross-entropy."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Discs(Dataset):
    def __init__(self, n, seed, flip=False):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:16, :16]
        y, x, r = (rng.uniform(low, high, (n, 1, 1)) for low, high in ((4, 12), (4, 12), (2, 5)))
        self.masks = torch.tensor((rows - y) ** 2 + (columns - x) ** 2 < r**2).long()
        self.images = self.masks.unsqueeze(1) + torch.tensor(rng.normal(0, 0.4, (n, 1, 16, 16)))
        self.images, self.flip = self.images.float(), flip

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, mask = self.images[index], self.masks[index]
        for axis in (-1, -2):
            if self.flip and torch.rand(()) < 0.5:
                image, mask = image.flip(axis), mask.flip(axis)
        return image, mask


class DiscsModule(pl.LightningDataModule):
    def __init__(self, batch_size=16, workers=0, n=256):
        super().__init__()
        self.batch_size, self.workers, self.n = batch_size, workers, n

    def setup(self, stage):
        if stage == "fit":
            self.train_set = Discs(self.n, seed=0, flip=True)
        if stage in ("fit", "validate"):
            self.val_set = Discs(self.n // 4, seed=1)
        if stage == "test":
            self.test_set = Discs(self.n // 4, seed=2)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.batch_size, num_workers=self.workers)


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.ReLU())


class LitUNet(pl.LightningModule):
    def __init__(self, lr=1e-2, width=8):
        super().__init__()
        self.lr = lr
        self.down = block(1, width)
        self.middle = nn.Sequential(nn.MaxPool2d(2), block(width, 2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.head = nn.Sequential(block(2 * width, width), nn.Conv2d(width, 2, 1))

    def forward(self, x):
        skip = self.down(x)
        return self.head(torch.cat([skip, self.up(self.middle(skip))], dim=1))

    def _shared_step(self, batch, stage):
        x, mask = batch
        logits = self(x)
        chance = logits.softmax(1)[:, 1]
        soft = 2 * (chance * mask).sum() / (chance.sum() + mask.sum() + 1e-6)
        loss = F.cross_entropy(logits, mask) + 1 - soft
        found = logits.argmax(1)
        dice = 2 * (found * mask).sum() / (found.sum() + mask.sum()).clamp(min=1)
        self.log_dict({f"{stage}/loss": loss, f"{stage}/dice": dice}, on_step=False, on_epoch=True)
        return loss, found

    def training_step(self, batch, batch_idx):
        return self._shared_step(batch, "train")[0]

    def validation_step(self, batch, batch_idx):
        _, found = self._shared_step(batch, "val")
        if batch_idx == 0 and self.logger is not None and hasattr(self.logger.experiment, "add_image"):
            self.logger.experiment.add_image("val/found", found[:1].float(), self.current_epoch)

    def test_step(self, batch, batch_idx):
        self._shared_step(batch, "test")

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
