"""The demo shows the lottery-ticket effect, with the seeds that it ships."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.reports.results import read
from lottery.reports.statistics import mean_interval

COMMITTED = Path(__file__).parent.parent / "experiments" / "demo" / "results.csv"


@pytest.mark.slow
def test_demo_shows_the_effect(lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = lottery("run", "experiment=demo", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = read(tmp_path / "runs")
    assert frame["density"].min() < 0.02
    scores = frame.pivot(index="round", columns=["arm", "seed"], values="test_accuracy")
    gains = (scores["imp"] - scores["random_reinit"]).loc[8:]
    assert gains.shape == (3, 5)
    assert (gains.mean(axis=1) > 0).all()


def test_committed_table_shows_the_effect_over_five_seeds() -> None:
    import pandas as pd

    frame = pd.read_csv(COMMITTED)
    last = frame[frame["round"] == frame["rounds"]].pivot(index="seed", columns="arm", values="test_accuracy")
    assert list(last.index) == [0, 1, 2, 3, 4]
    mean, half = mean_interval(last["imp"] - last["random_reinit"])
    assert mean - half > 0
