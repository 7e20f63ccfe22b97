"""Training of a user's own LightningModule by Lightning's Trainer: masked, resumable at any step, without pickle."""
