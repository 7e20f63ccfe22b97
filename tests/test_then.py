"""Results of an older version stay what they are: `tests/then` was written by d70f31c, before modules had rooms."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lottery.commands.ticket.verify import verified
from lottery.config.build import build
from lottery.config.cell_config import CellConfig
from lottery.config.compose import cell_configs
from lottery.running.cell import record_cell
from lottery.store.entries import Store
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from lottery.store.tickets import read

THEN = Path(__file__).parent / "then"
TORCH = "2.14.1+cu130"
ASKED = (
    "data._target_=then.squares", "data.shape=[1,4,4]", "~data.val_size", "~data.test_size", "data.classes=2",
    "data.batch_size=16", "model._target_=then.net", "optimizer=sgd", "budget.steps=30", "budget.evaluate=10",
    "budget.learning_rate._target_=lottery.learning_rates.multistep", "+budget.learning_rate.milestones=[1500]",
    "schedule.rounds=2", "arm.rewind=10it", "tracking.mode=disabled", "stop.density=0.01", "hardware.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user code of that version, and its PyTorch version, which is part of every phase's key."""
    shutil.copytree(THEN / "finished", tmp_path / "runs")
    shutil.copy(THEN / "then.py", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch, "__version__", TORCH)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("then", None)


def asked(arm: str) -> CellConfig:
    [job] = cell_configs([*ASKED, f"arm={arm}"])
    return job


@pytest.mark.parametrize("arm", ["imp", "random_reinit", "lr_rewind"])
def test_a_cell_of_then_is_finished(arm: str) -> None:
    job = asked(arm)
    assert job.folder == Path(f"runs/lenet_300_100-digits-c774b9b7/{arm},rewind=10it/seed0")
    assert job.finished()


@pytest.mark.parametrize("arm", ["imp", "random_reinit", "lr_rewind"])
def test_a_cell_is_played_from_the_store_of_then(arm: str) -> None:
    job = asked(arm)
    (before := Ledger(job.folder / NAME)).path.rename("then.jsonl")
    record_cell(build(job), job.folder, Store("runs/store"))
    lines = [json.loads(text) for text in Path("then.jsonl").read_text().splitlines()]
    again = before.lines()
    assert all(line.pop("run")["reused"] for line in again)
    assert again == [{key: value for key, value in line.items() if key != "run"} for line in lines]


def test_a_ticket_of_then_holds() -> None:
    verdict = verified(read(THEN / "imp_r2.safetensors"), trust=("then",))
    assert verdict.holds
