"""Training of a user's own LightningModule by Lightning's Trainer: masked, resumable at any step, without pickle."""

import lottery.training.signals  # noqa: F401  # before anything here imports Lightning
