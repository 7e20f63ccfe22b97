"""Fine-tunes a ResNet-18: the stem is frozen, the head learns faster than the rest."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import resnet18


class StripesModule(pl.LightningDataModule):
    """Pictures of stripes: across, down, or none."""

    def __init__(self, batch_size=8, workers=0, n=24):
        super().__init__()
        self.save_hyperparameters()

    def make(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(3, (n,), generator=generator)
        stripes = (torch.arange(32) // 4 % 2).float().expand(32, 32)
        patterns = torch.stack([stripes, stripes.T, torch.full((32, 32), 0.5)])
        images = patterns[labels].unsqueeze(1) + 0.3 * torch.randn(n, 3, 32, 32, generator=generator)
        return TensorDataset(images, labels)

    def setup(self, stage=None):
        n = self.hparams.n
        self.train_set, self.val_set, self.test_set = self.make(n, 0), self.make(n // 3, 1), self.make(n // 3, 2)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.hparams.batch_size, shuffle=True, num_workers=self.hparams.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.batch_size, num_workers=self.hparams.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.hparams.batch_size, num_workers=self.hparams.workers)


class LitFineTuner(pl.LightningModule):
    def __init__(self, lr=1e-2, backbone_lr=1e-3, classes=3, weights=None):
        super().__init__()
        self.save_hyperparameters()
        self.backbone = resnet18(weights=weights)
        self.backbone.fc = nn.Linear(self.backbone.fc.in_features, classes)
        for part in (self.backbone.conv1, self.backbone.bn1, self.backbone.layer1):
            part.requires_grad_(False)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(classes, average="micro") for stage in ("val", "test")}
        )

    def forward(self, x):
        return self.backbone(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def evaluate(self, batch, stage):
        x, y = batch
        self.accuracy[stage](self(x), y)
        self.log(f"{stage}/acc", self.accuracy[stage])

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test")

    def configure_optimizers(self):
        head = list(self.backbone.fc.parameters())
        rest = [p for name, p in self.backbone.named_parameters() if p.requires_grad and not name.startswith("fc.")]
        groups = [{"params": rest, "lr": self.hparams.backbone_lr}, {"params": head, "lr": self.hparams.lr}]
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
