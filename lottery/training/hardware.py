"""Hardware, of which only the kind and the number of devices change bits, and Lightning's Trainer for it."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from lottery.foundations.machine import processor
from lottery.training import ranks
from lottery.training.numerics import Numerics as Numerics  # yamls, and so digests of studies, name it here

SET = {
    "accelerator": "hardware.accelerator",
    "benchmark": "numerics.deterministic",
    "default_root_dir": "out",
    "deterministic": "numerics.deterministic",
    "devices": "hardware.devices",
    "enable_checkpointing": "hardware.checkpoint_seconds",
    "enable_progress_bar": "nothing: progress is always shown",
    "enable_model_summary": "lottery.load(...) in a notebook, which gives the network",
    "fast_dev_run": "budget.steps and schedule.rounds",
    "logger": "tracking",
    "max_epochs": "budget.steps, e.g. budget.steps=10ep",
    "max_steps": "budget.steps",
    "max_time": "budget.steps",
    "min_epochs": "budget.steps",
    "min_steps": "budget.steps",
    "num_nodes": "hardware.devices, all on one machine",
    "strategy": "hardware.devices",
    "precision": "numerics.precision",
}
"""Trainer arguments that the framework sets, whatever it trains; and what to use instead."""
INSTEAD = SET | {
    "accumulate_grad_batches": "data.batch_size",
    "callbacks": "a module of your own (module=...)",
    "check_val_every_n_epoch": "budget.evaluate",
    "gradient_clip_algorithm": "optimizer.clip_norm",
    "gradient_clip_val": "optimizer.clip_norm",
    "limit_predict_batches": "data.val_size",
    "limit_test_batches": "data.val_size",
    "limit_train_batches": "budget.steps",
    "limit_val_batches": "data.val_size",
    "plugins": "numerics.precision and hardware.devices",
    "sync_batchnorm": "hardware.devices=1",
    "num_sanity_val_steps": "nothing: every network is checked with one batch before training",
    "overfit_batches": "data.val_size and budget.steps",
    "reload_dataloaders_every_n_epochs": "nothing: data stays in memory",
    "val_check_interval": "budget.evaluate",
}
"""Trainer arguments that mean nothing, or something else, if a batch is a chunk of steps; and what to use instead."""

OFF = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,  # it draws random numbers and moves the states of metrics
    "default_root_dir": os.devnull,  # under Slurm, Lightning would load checkpoints (pickles) found there
}
"""What the framework does itself, turned off in Lightning's Trainer."""


@dataclass(frozen=True)
class Hardware:
    """Where training runs; by itself it changes no number's meaning."""

    accelerator: str = "auto"
    devices: int = 1
    """processes that train a cell together, each on its own share of every batch: GPUs of this machine, or cores"""
    checkpoint_seconds: float = 10.0
    """seconds of training between two checkpoints, which a kill can cost"""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """further arguments of Lightning's Trainer"""

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise ValueError(f"accelerator={self.accelerator}: must be auto, cpu or gpu")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("accelerator=gpu: PyTorch finds no GPU on this machine; allowed here: auto, cpu")
        if self.devices < 1:
            raise ValueError(f"devices={self.devices}: must be at least 1")
        if self.devices > 1 and self.device == "cuda" and self.devices > torch.cuda.device_count():
            raise ValueError(f"devices={self.devices}: this machine has {torch.cuda.device_count()} GPUs")
        if self.checkpoint_seconds <= 0:
            raise ValueError(f"checkpoint_seconds={self.checkpoint_seconds}: must be above 0")
        known = sorted(inspect.signature(pl.Trainer).parameters.keys() - INSTEAD.keys())
        for name, value in self.trainer.items():
            if name in INSTEAD:
                raise ValueError(f"trainer.{name}={value}: does not apply here; use {INSTEAD[name]}")
            if name not in known:
                raise ValueError(f"trainer.{name}={value}: Trainer has no such argument; allowed: {', '.join(known)}")

    @property
    def device(self) -> str:
        """The device type that training takes: `cpu` or `cuda`."""
        return "cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu"

    @property
    def model(self) -> str:
        """The name of the GPU that has trained in this process, or else of its processor."""
        used = self.device == "cuda" and torch.cuda.is_initialized()  # asking for it would take a GPU's memory
        return torch.cuda.get_device_name() if used else processor()


def check_precision(hardware: Hardware, numerics: Numerics) -> None:
    """Raises ValueError for a precision that the device lacks."""
    if numerics.precision == "16-mixed" and hardware.device == "cpu":
        raise ValueError("numerics.precision=16-mixed needs a GPU; on a CPU use 32 or bf16-mixed")
    if (
        numerics.precision == "bf16-mixed"
        and hardware.device == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError("numerics.precision=bf16-mixed: this GPU has no bfloat16; use 32 or 16-mixed")


def trainer_for(hardware: Hardware, numerics: Numerics) -> pl.Trainer:
    """Lightning's Trainer, with everything turned off that the framework does itself.

    It leaves threads and deterministic kernels to `Numerics.entered`.
    Raises ValueError for a precision that the device lacks.
    """
    check_precision(hardware, numerics)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*GPU available but not used.*")  # hardware=cpu asked for that
        return pl.Trainer(
            accelerator="gpu" if hardware.device == "cuda" else "cpu",
            **devices(hardware),
            precision=numerics.precision,  # type: ignore[arg-type]  # one of PRECISIONS, as Numerics has checked
            max_epochs=1,
            **{"logger": False, **OFF, **hardware.trainer},
        )


def devices(hardware: Hardware) -> dict[str, Any]:
    """Trainer arguments for the devices: one for each rank, or, in a worker of a sweep, that worker's own GPU."""
    _, count = ranks.share()
    if count > 1:
        return {"devices": count, "strategy": DDPStrategy(cluster_environment=LightningEnvironment())}
    # else Lightning detects Slurm, and adds checkpoints and signal handlers of its own
    alone: dict[str, Any] = {"plugins": [LightningEnvironment()]}
    if hardware.device == "cuda":
        return alone | {"devices": [worker_gpu(multiprocessing.current_process().name, torch.cuda.device_count())]}
    return alone | {"devices": 1}


def worker_gpu(process: str, count: int) -> int:
    """The GPU of a worker process: workers are numbered, and take a machine's GPUs in turn.

    >>> worker_gpu("MainProcess", 4), worker_gpu("LokyProcess-1", 4), worker_gpu("LokyProcess-6", 4)
    (0, 0, 1)
    """
    number = process.rpartition("-")[2]
    return (int(number) - 1) % count if number.isdigit() else 0
