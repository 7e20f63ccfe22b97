"""A project that imports Lightning by its newer name, as Lightning's documentation has it."""

from __future__ import annotations

import lightning as L
import lightning.pytorch as pl
from lightning import LightningDataModule
from lightning.pytorch.callbacks import LambdaCallback

from tests.projects import staged


class Newer(L.LightningModule):
    training_step = staged.Plain.training_step
    validation_step = staged.Plain.validation_step
    test_step = staged.Plain.test_step
    configure_optimizers = staged.Plain.configure_optimizers
    _loss, forward = staged.Plain._loss, staged.Plain.forward

    def __init__(self) -> None:
        super().__init__()
        self.net = staged.Plain().net

    def configure_callbacks(self) -> list[pl.Callback]:
        return [LambdaCallback(on_train_end=lambda *_: None)]


class Data(LightningDataModule):
    setup = staged.ByStage.setup
    train_dataloader = staged.ByStage.train_dataloader
    val_dataloader = staged.ByStage.val_dataloader
    test_dataloader = staged.ByStage.test_dataloader
