"""A GAN that draws points on a ring, with manual optimization."""

import math

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class RingModule(pl.LightningDataModule):
    def __init__(self, batch_size=32, workers=0, n=320):
        super().__init__()
        self.batch_size, self.workers, self.n = batch_size, workers, n

    def setup(self, stage=None):
        generator = torch.Generator().manual_seed(3)
        angle = 2 * math.pi * torch.rand(2 * self.n, generator=generator)
        points = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(2 * self.n, 2, generator=generator)
        self.train_set = TensorDataset(points[: self.n])
        self.val_set = TensorDataset(points[self.n : self.n + self.n // 2])
        self.test_set = TensorDataset(points[self.n + self.n // 2 :])

    def train_dataloader(self):
        return DataLoader(self.train_set, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.batch_size, num_workers=self.workers)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.batch_size, num_workers=self.workers)


def mlp(inputs, width, outputs):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, outputs),
    )


class LitGAN(pl.LightningModule):
    def __init__(self, lr=2e-3, width=32, latent=4):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = mlp(latent, width, 2)
        self.discriminator = mlp(2, width, 1)

    def forward(self, z):
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        (real,) = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(len(real), self.hparams.latent, device=self.device)

        self.toggle_optimizer(opt_g)
        judged = self.discriminator(self(z))
        g_loss = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        on_real, on_fake = self.discriminator(real), self.discriminator(self(z).detach())
        d_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)

        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    def on_train_epoch_end(self):
        self.lr_schedulers().step()

    def on_validation_epoch_start(self):
        self.noise = torch.Generator(self.device).manual_seed(0)

    on_test_epoch_start = on_validation_epoch_start

    def distance(self, real):
        """Energy distance between real and drawn points."""
        fake = self(torch.randn(len(real), self.hparams.latent, generator=self.noise, device=self.device))
        return 2 * torch.cdist(real, fake).mean() - torch.cdist(real, real).mean() - torch.cdist(fake, fake).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_score", self.distance(batch[0]), prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("test_score", self.distance(batch[0]))

    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr, betas=(0.5, 0.999))
        return [opt_g, opt_d], [torch.optim.lr_scheduler.ExponentialLR(opt_d, gamma=0.97)]
