"""A project, and variants of it that no round can be trained with, or that say something odd; it imports no test."""

import copy
import json
import os

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.projects.shared import Rows, rows


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def loss(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Average(pl.Callback):
    """Puts an average of the weights in place, as many projects have it: while it validates, or at the end."""

    def __init__(self, puts="on_validation_start", back="on_validation_end"):
        self.shadow, self.puts, self.back = None, puts, back
        setattr(self, puts, self.put)
        if back:
            setattr(self, back, self.restore)

    def on_train_batch_end(self, trainer, module, *_):
        self.shadow = self.shadow or [p.detach().clone() for p in module.parameters()]
        for average, parameter in zip(self.shadow, module.parameters(), strict=True):
            average.lerp_(parameter.detach(), 0.1)

    def put(self, trainer, module):
        self.own = [p.detach().clone() for p in module.parameters()]
        self.copy(module, self.shadow or self.own)

    def restore(self, trainer, module):
        self.copy(module, self.own)

    @torch.no_grad()
    def copy(self, module, values):
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)


class Averaged(Lit):
    """Its rate begins so small that two steps change no number that is logged."""

    def __init__(self, puts="on_validation_start", back="on_validation_end"):
        super().__init__()
        self.puts, self.back = puts, back

    def configure_callbacks(self):
        return [Average(self.puts, self.back)]

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.3, momentum=0.9)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-6 if step < 4 else 1.0)
        return [optimizer], [{"scheduler": rate, "interval": "step"}]


class Teacher(Lit):
    """Validates an average that is a part of it."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for average, parameter in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                average.lerp_(parameter, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.teacher(batch[0]), batch[1]))


class Bounded(Lit):
    """Bounds its weights after each epoch, once it has validated."""

    def on_train_epoch_end(self):
        with torch.no_grad():
            self.net[0].weight.clamp_(-0.1, 0.1)


class Begins(Lit):
    """Initialises itself once training begins."""

    def on_fit_start(self):
        nn.init.orthogonal_(self.net[0].weight)


class Late(Lit):
    """Makes a layer once training begins, or ties two then."""

    def __init__(self, ties=False):
        super().__init__()
        self.ties, self.other = ties, nn.Linear(6, 16)

    def on_fit_start(self):
        if self.ties:
            self.other.weight = self.net[0].weight
        elif not hasattr(self, "head"):
            self.head = nn.Linear(2, 2)


class Configured(Lit):
    """Makes its layers where Lightning's documentation advises it for large ones."""

    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


class Seeds(Lit):
    def __init__(self):
        torch.manual_seed(42)
        super().__init__()


class Idle(Lit):
    def training_step(self, batch, batch_idx):
        return None


class Plateau(Lit):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Finds(Lit):
    def configure_callbacks(self):
        return [pl.callbacks.LearningRateFinder()]


class Draws(Lit):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)

    def training_step(self, batch, batch_idx):
        return self.loss((batch[0] + torch.randn(batch[0].shape, generator=self.rng), batch[1]))


class Counts(Lit):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(float(batch[0].mean()))
        return self.loss(batch) * (1 + sum(self.seen))


class Writes(Lit):
    """Writes beside its logger's files, of which there are none."""

    def on_fit_start(self):
        os.path.join(self.logger.log_dir, "notes.txt")


class Shown(pl.Callback):
    def on_validation_epoch_end(self, trainer, module):
        raise IndexError("pop from empty list")


class Shows(Lit):
    def configure_callbacks(self):
        return [Shown()]


class Rare(Dataset):
    """Its last row fails: an error that a user's data set raises, or the end of the process that reads it."""

    def __init__(self, dies):
        self.rows, self.dies = rows(64), dies

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index == 60:
            if self.dies:
                os._exit(3)
            raise KeyError("label")
        return self.rows[index]


class RareRows(Rows):
    def __init__(self, workers=0, dies=False):
        super().__init__()
        self.workers, self.dies = workers, dies

    def train_dataloader(self):
        return DataLoader(Rare(self.dies), 8, num_workers=self.workers)


class Reads(Lit):
    """Takes its width from a file."""

    def __init__(self, settings):
        super().__init__()
        with open(settings) as file:
            width = json.load(file)["width"]
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))
