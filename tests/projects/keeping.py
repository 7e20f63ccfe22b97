"""Small modules and data that keep something outside their state_dict, as owners of projects write them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset


def rows(n: int) -> TensorDataset:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, (x[:, :2].sum(1) > 0).long())


class Lit(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def loss(self, batch: Any) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.3, momentum=0.9, weight_decay=1e-3)


class Plateau(Lit):
    """Its learning rate falls by steps, whenever the loss of a batch has not become less."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.8)
        by_steps = {"scheduler": plateau, "monitor": "loss", "interval": "step", "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": by_steps}


class PlateauOfValidation(Plateau):
    def configure_optimizers(self) -> Any:
        found = super().configure_optimizers()
        found["lr_scheduler"] |= {"monitor": "val_loss", "strict": False}
        return found


class Gathers(Lit):
    """Steps every third batch, across epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("count", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / 3)
        self.count += 1
        if self.count % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()


class Forgets(Lit):
    """Divides its loss by a mean that is in a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()), persistent=False)
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.mean.lerp_(loss.detach(), 0.1)
        return loss / self.mean


class Teaches(Lit):
    """A curriculum: examples are as large as the epoch, which its hook sets on the data set."""

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.level = 1.0 + self.current_epoch


class Both(Lit):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch["a"]) + self.loss(batch["b"])


class Rows(pl.LightningDataModule):
    def __init__(self, workers: int = 0) -> None:
        super().__init__()
        self.workers = workers

    def train_dataloader(self) -> Any:
        return DataLoader(rows(40), 8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(rows(16), 8)

    def test_dataloader(self) -> Any:
        return DataLoader(rows(16), 8)


class CountingSampler(Sampler[int]):
    """Its order is that of the epoch that it counts itself."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        return iter(torch.randperm(40, generator=drawn).tolist())


class RandomsSampler(Sampler[int]):
    """Draws from a source of its own."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        return iter(self.random.sample(range(40), 40))


class Counts(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(rows(40), 8, sampler=CountingSampler())


class Randoms(Rows):
    """One sampler for all trainings."""

    def setup(self, stage: str | None = None) -> None:
        self.sampler = RandomsSampler()

    def train_dataloader(self) -> Any:
        return DataLoader(rows(40), 8, sampler=self.sampler)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        data = rows(24)
        return (data[index] for index in range(24))


class Streams(Rows):
    """A stream of three batches beside five."""

    def train_dataloader(self) -> Any:
        return {"a": DataLoader(rows(40), 8, shuffle=True), "b": DataLoader(Stream(), 8)}


class Leveled(Dataset[Any]):
    def __init__(self) -> None:
        self.rows, self.level = rows(40), 5.0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        x, y = self.rows[index]
        return x * self.level, y


class Levels(Rows):
    def setup(self, stage: str | None = None) -> None:
        self.rows = Leveled()

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, 8, shuffle=True, num_workers=self.workers)


class Noisy(Dataset[Any]):
    def __init__(self, keeps: bool = False) -> None:
        self.keeps, self.kept = keeps, dict[int, Any]()

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if index in self.kept:
            return self.kept[index]
        found = torch.randn(6) + torch.rand(()) * random.random(), index % 2
        if self.keeps:
            self.kept[index] = found
        return found


class Remembers(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(keeps=True), 8)
