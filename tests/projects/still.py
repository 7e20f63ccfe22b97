"""Two of the little projects without what a share of a batch changes: BatchNorm's statistics, and noise."""

from unittest import mock

import torch
from torch import nn

from tests.projects.finetune import LitFineTuner
from tests.projects.gan import LitGAN


class StillFineTuner(LitFineTuner):
    """BatchNorm stays in evaluation mode, as often in fine-tuning."""

    def __init__(self):
        super().__init__()
        self.train()

    def train(self, mode=True):
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.train(False)
        return self


class StillGAN(LitGAN):
    """Draws its noise from the batch."""

    def training_step(self, batch, batch_idx):
        mixed = torch.linspace(-2, 2, 2 * self.hparams.latent).reshape(2, self.hparams.latent)
        with mock.patch("torch.randn", return_value=torch.sin(5 * batch[0] @ mixed)):
            super().training_step(batch, batch_idx)
