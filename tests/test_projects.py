"""The little projects of tests/projects, by plain Lightning: what fails elsewhere is not the project's own fault."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import pytest
import pytorch_lightning as pl

PROJECTS = {
    # module: its LightningModule, its LightningDataModule, the headline of validation and of the test
    "classifier": ("LitClassifier", "PicturesModule", "val_acc", "test_acc"),
    "segmenter": ("LitUNet", "DiscsModule", "val/dice", "test/dice"),
    "language": ("LitLanguageModel", "TextModule", "val_perplexity", "test_perplexity"),
    "siamese": ("LitSiamese", "PairsModule", "val_accuracy", "test_accuracy"),
    "forecast": ("LitForecaster", "WavesModule", "val_mae", "test_mae"),
    "finetune": ("LitFineTuner", "StripesModule", "val/acc", "test/acc"),
    "gan": ("LitGAN", "RingModule", "val_score", "test_score"),
    "bert": ("LitBert", "SentencesModule", "val_acc", "test_acc"),
}


@pytest.mark.filterwarnings("ignore:The `srun` command is available")  # where Slurm is installed
@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_trains_by_plain_lightning(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    if name == "bert":
        pytest.importorskip("transformers", reason="no dependency of ours, and large")
    module_name, data_name, validated, tested = PROJECTS[name]
    project = import_module(f"tests.projects.{name}")
    pl.seed_everything(0, verbose=False)
    module, data = getattr(project, module_name)(), getattr(project, data_name)()
    trainer = pl.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step > 0
    assert math.isfinite(trainer.callback_metrics[validated])
    [row] = trainer.test(module, datamodule=data, verbose=False)
    assert math.isfinite(row[tested])
