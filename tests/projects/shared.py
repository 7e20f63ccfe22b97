"""A project for trainings by several processes, and variants of it with traps; it imports no test."""

import os

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchmetrics import MeanMetric


def rows(n):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, (x[:, 0] > 0).long())


class Rows(pl.LightningDataModule):
    def __init__(self, batch_size=8, n=64):
        super().__init__()
        self.batch_size, self.n = batch_size, n

    def train_dataloader(self):
        return DataLoader(rows(self.n), self.batch_size, shuffle=True)

    def val_dataloader(self):
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        data = rows(33)
        return DataLoader(data, 8, sampler=DistributedSampler(data, shuffle=False) if shared else None)

    def test_dataloader(self):
        return DataLoader(rows(40), 8)


class Sampled(Rows):
    def train_dataloader(self):
        data = rows(64)
        return DataLoader(data, 8, sampler=DistributedSampler(data, num_replicas=2, rank=0))


class Two(Rows):
    def __init__(self, sizes=(8, 4)):
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self):
        return {str(index): DataLoader(rows(64), size, shuffle=True) for index, size in enumerate(self.sizes)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(6), 1)] * 64)


class Streamed(Rows):
    def train_dataloader(self):
        return DataLoader(Stream(), 8)


class Lit(pl.LightningModule):
    """Has a layer that is never used; pruned weights and their gradients stay zero, or it fails."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        self.unused = nn.Linear(6, 6)
        self.register_buffer("ema", torch.zeros(2))

    def loss(self, batch):
        if isinstance(batch, dict):
            return sum(self.loss(each) for each in batch.values())
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_start(self):
        self.pruned = {name: weight == 0 for name, weight in self.named_parameters()}

    def on_before_optimizer_step(self, optimizer):
        for name, weight in self.named_parameters():
            assert weight.grad is None or not weight.grad[self.pruned[name]].any(), f"a pruned gradient of {name}"

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for name, weight in self.named_parameters():
            assert not weight[self.pruned[name]].any(), f"a pruned weight of {name}"

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Synced(Lit):
    """Logs as a project does that has been trained on several devices, and goes by what it logs."""

    def __init__(self, monitor="train_loss"):
        super().__init__()
        self.monitor = monitor
        self.seen = MeanMetric()
        self.counted = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.seen.update(loss, weight=len(batch[0]))
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        self.log("side", (-1.0) ** self.global_rank * self.current_epoch, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.ema.fill_(self.seen.compute())

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.counted.update(loss, weight=len(batch[0]))
        self.log("val_loss", loss, sync_dist=True)
        self.log("val_sum", float(len(batch[0])), sync_dist=True, reduce_fx="sum")
        self.log("val_metric", self.counted)
        self.log("val_first", loss, rank_zero_only=True)
        self.log("val_gathered", float(len(self.all_gather(loss).reshape(-1))))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.5)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": self.monitor}}


class Thawing(Lit):
    """Trains one layer in the first epoch, and both from the second on."""

    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self):
        self.net[0].requires_grad_(self.trainer.current_epoch > 0)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


class ThawingAmid(Thawing):
    """Trains both layers from the fifth step on."""

    def on_train_epoch_start(self):
        pass

    def on_train_batch_start(self, batch, batch_idx):
        self.net[0].requires_grad_(self.trainer.global_step >= 5)


class Manual(Lit):
    """Manual optimization, and a buffer that follows the batches and changes the loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.ema.lerp_(batch[0].mean(0)[:2], 0.5)
        optimizer.zero_grad()
        self.manual_backward(self.loss((batch[0] * (1 + self.ema.mean()), batch[1])))
        optimizer.step()


class ByHand(Lit):
    """Manual optimization without manual_backward: no process hears of the gradients of the others."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.loss(batch).backward()
        optimizer.step()

    def on_before_optimizer_step(self, optimizer):
        pass


class Apart(Lit):
    """Adds to a weight what depends on the process."""

    def on_before_zero_grad(self, optimizer):
        with torch.no_grad():
            self.net[2].bias.add_(self.global_rank)


class Dies(Lit):
    """One of its processes fails, is killed, or skips a step."""

    def __init__(self, rank=1, how="raises"):
        super().__init__()
        self.rank, self.how = rank, how

    def training_step(self, batch, batch_idx):
        if self.trainer.world_size > 1 and self.global_rank == self.rank and batch_idx == 3:
            if self.how == "dies":
                os._exit(9)
            if self.how == "skips":
                return None
            raise ValueError("this batch is odd")
        return self.loss(batch)
