"""The made-up sweep on which reading and reporting are measured is one that `lottery run` could have left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.speed.sweeps import ARMS, READ, line, timed, write
from lottery.commands import main as cli
from lottery.config.cell_config import recorded
from lottery.reports.results import missing, read
from lottery.store.folder import cells


def test_a_small_sweep_is_read_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, studies=2, seeds=2, rounds=3)
    frame = read(tmp_path)
    assert len(frame) == 2 * len(ARMS) * 2 * 4
    assert frame["study"].nunique() == 2
    assert missing(frame) == []
    assert {recorded(cell)["optimizer"]["lr"] for cell in cells(tmp_path)} == {1e-4, 2e-4}
    assert cli.dispatch(["report", str(tmp_path)]) == 0
    assert "optimizer.lr=0.0002" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    seconds, memory = timed(READ, tmp_path)
    assert seconds > 0
    assert memory > 1


def test_a_line_says_what_one_of_a_run_says() -> None:
    (path,) = (Path(__file__).parent / "then" / "finished").glob("*/imp*/seed0/ledger.jsonl")
    real = json.loads(path.read_text().splitlines()[0])
    made = line(np.random.default_rng(0), "s", "imp", 0, 0, 3)
    assert made.keys() - real.keys() == {"test_top5", "val_top5"}
    assert real.keys() <= made.keys()
    assert made["run"].keys() == real["run"].keys()
