"""A project that does by stages what others do when they are made, and whose hooks reach into gradients and weights."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


class Points(Dataset):
    def __init__(self, count: int, noisy: bool = False) -> None:
        self.x = torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
        self.y, self.noisy = (self.x[:, 0] > 0).long(), noisy

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + self.noisy * torch.randn(6), self.y[index]


class ByStage(pl.LightningDataModule):
    """One attribute for all loaders, augmented for training alone, and freed at the end."""

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.batch = 8 // self.trainer.world_size
        self.points = Points(32, noisy=True) if stage == "fit" else Points(24)
        self.classes = 2

    def teardown(self, stage: str) -> None:
        del self.points

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.points, self.batch, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Points(16), self.batch)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.points, self.batch)


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def _loss(self, part: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        out = self(batch[0])
        loss = functional.cross_entropy(out, batch[1])
        self.log_dict({f"{part}_loss": loss, f"{part}_acc": (out.argmax(1) == batch[1]).float().mean()})
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self._loss("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._loss("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._loss("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Pretrained(Plain):
    """Its setup loads weights and makes the head, whose size the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.net = self.net[:2]

    def setup(self, stage: str) -> None:
        rng = torch.Generator().manual_seed(7)
        nn.init.normal_(self.net[0].weight, std=0.3, generator=rng)
        self.head = nn.Linear(16, self.trainer.datamodule.classes)  # type: ignore[attr-defined]  # Lightning sets it

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))


class Unguarded(Plain):
    """Makes its layers anew whenever it is configured."""

    def configure_model(self) -> None:
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


class LateSetup(Plain):
    """Its setup draws weights, but needs to know how long it trains."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            assert self.trainer.max_epochs == 3, "how long is the training?"
            nn.init.normal_(self.net[0].weight)


class Centred(Plain):
    """Its hooks put values into gradients and weights after every step."""

    def on_after_backward(self) -> None:
        for parameter in self.parameters():
            parameter.grad += 0.01

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in self.parameters():
            parameter.grad += 0.01

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        self.norm = float(nn.utils.clip_grad_norm_(self.parameters(), 1.0))
        seen.append({name: parameter.grad.clone() for name, parameter in self.named_parameters()})

    def on_train_batch_end(self, *_: object) -> None:
        with torch.no_grad():
            for layer in (self.net[0], self.net[2]):
                layer.weight -= layer.weight.mean(1, keepdim=True)


seen: list[dict[str, Tensor]] = []
"""The gradients that were clipped."""


class CentredBatch(Plain):
    def on_train_batch_end(self, *_: object) -> None:
        with torch.no_grad():
            self.net[0].weight -= self.net[0].weight.mean(1, keepdim=True)


class CentredGradient(Plain):
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in self.parameters():
            parameter.grad += 0.01

    configure_gradient_clipping = Centred.configure_gradient_clipping


class CentredStep(Plain):
    def optimizer_step(self, *given: object, **more: object) -> None:
        super().optimizer_step(*given, **more)
        with torch.no_grad():
            self.net[0].weight -= self.net[0].weight.mean(1, keepdim=True)
