"""Blobs in noisy pictures, found by a small U-Net: a project of plain PyTorch Lightning.

`python project.py` trains and tests it.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics.classification import BinaryF1Score


def blobs(n: int, seed: int, size: int = 24) -> TensorDataset:
    """Pictures of bright discs and distracting bright rings in uneven light and noise; the masks are the discs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    axis = torch.arange(size).float()
    rows, columns = axis[:, None], axis[None, :]
    light = uniform(-0.03, 0.03, n, 1, 1) * (rows - size / 2) + uniform(-0.03, 0.03, n, 1, 1) * (columns - size / 2)
    images = light + 0.35 * torch.randn(n, size, size, generator=generator)
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    for kind in ("ring", "disc", "ring", "disc"):
        y, x = uniform(4, size - 4, n, 1, 1), uniform(4, size - 4, n, 1, 1)
        radius = uniform(2.5, 5.5, n, 1, 1)
        distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
        shape = distance < radius if kind == "disc" else (distance - radius).abs() < 0.9
        images = torch.where(shape, images + uniform(0.6, 1.2, n, 1, 1), images)
        masks |= shape if kind == "disc" else torch.zeros_like(shape)
    return TensorDataset(images.unsqueeze(1), masks.unsqueeze(1).float())


class Flipped(Dataset[tuple[Tensor, Tensor]]):
    """Each picture and its mask, at random turned over, and over again."""

    def __init__(self, pictures: TensorDataset) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.pictures[index]
        axes = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
        return image.flip(axes), mask.flip(axes)


class BlobsModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 16, workers: int = 0, n: int = 192) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.workers, self.n = batch_size, workers, n

    def setup(self, stage: str | None = None) -> None:
        self.train_set = Flipped(blobs(self.n, seed=0))
        self.val_set = blobs(self.n // 2, seed=1)
        self.test_set = blobs(self.n, seed=2)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, self.batch_size, num_workers=self.workers)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, self.batch_size, num_workers=self.workers)


class Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.down1, self.down2 = Block(1, width), Block(width, 2 * width)
        self.bottom = nn.Sequential(Block(2 * width, 4 * width), Block(4 * width, 4 * width))
        self.up2, self.up1 = Block(6 * width, 2 * width), Block(3 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        bottom = self.bottom(self.pool(coarse))
        coarse = self.up2(torch.cat([coarse, self.up(bottom)], dim=1))
        fine = self.up1(torch.cat([fine, self.up(coarse)], dim=1))
        return self.head(fine)


class LitSegmenter(pl.LightningModule):
    def __init__(self, lr: float = 0.01, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = UNet(width)
        self.val_dice, self.test_dice = BinaryF1Score(), BinaryF1Score()  # of pixels, F1 is Dice

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, masks = batch
        logits = self(images)
        chance = logits.sigmoid()
        dice = (2 * (chance * masks).sum() + 1) / (chance.sum() + masks.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + 1 - dice
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, masks = batch
        logits = self(images)
        self.val_dice(logits, masks.int())
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, masks))
        self.log("val_dice", self.val_dice, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, masks = batch
        self.test_dice(self(images), masks.int())
        self.log("test_dice", self.test_dice)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


if __name__ == "__main__":
    pl.seed_everything(0)
    trainer = pl.Trainer(max_epochs=20, logger=False, enable_checkpointing=False)
    segmenter, data = LitSegmenter(), BlobsModule()
    trainer.fit(segmenter, datamodule=data)
    trainer.test(segmenter, datamodule=data)
