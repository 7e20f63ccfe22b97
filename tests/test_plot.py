"""`lottery.plot`: the report's figure for notebooks."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import lottery
from lottery.reports.figures import draw
from lottery.store.ledger import LedgerError
from tests.test_results import ACCURACY, ledgers

mpl.use("Agg")

import matplotlib.pyplot as plt


def test_a_notebook_s_figure_is_that_of_the_report(tmp_path: Path) -> None:
    frame = lottery.read(ledgers(tmp_path, ACCURACY))
    figure = lottery.plot(frame)
    figure.savefig(tmp_path / "plot.png", dpi=160)
    draw(frame, tmp_path / "curve.png")
    assert np.array_equal(*(plt.imread(tmp_path / name) for name in ("plot.png", "curve.png")))
    assert not plt.get_fignums()  # else a notebook would show it twice


def test_results_of_several_studies_are_not_drawn_as_one(tmp_path: Path) -> None:
    frame = lottery.read(ledgers(tmp_path, ACCURACY))
    with pytest.raises(LedgerError, match="results of 2 studies"):
        lottery.plot(pd.concat([frame, frame.assign(study="other")]))


def test_lines_hold_the_means_of_the_frame(tmp_path: Path) -> None:
    frame = lottery.read(ledgers(tmp_path, ACCURACY))
    lines = {str(line.get_label()).partition(" ")[0]: line for line in lottery.plot(frame).axes[0].get_lines()}
    means = frame.groupby(["arm", "round"])["test_accuracy"].mean()
    for arm in ("imp", "random_reinit"):
        assert np.allclose(lines[arm].get_ydata(), means[arm])


def test_what_is_no_frame_of_rounds_is_refused(tmp_path: Path) -> None:
    frame = lottery.read(ledgers(tmp_path, ACCURACY))
    for column in ("study", "density", "train_steps", "early_stop_step", "test_accuracy"):
        with pytest.raises(ValueError, match=rf"^lottery\.plot takes a frame of lottery\.read; .* column {column}$"):
            lottery.plot(frame.drop(columns=column))
    with pytest.raises(ValueError, match=r"lacks the column early_stop_test_\*$"):
        lottery.plot(frame.drop(columns="early_stop_test_accuracy"))
    for wrong in (frame.iloc[:0], "runs/demo"):
        with pytest.raises(ValueError, match=r"^lottery\.plot takes a frame with rows of lottery\.read$"):
            lottery.plot(wrong)
    with pytest.raises(ValueError, match="the frame has a round of a seed twice"):
        lottery.plot(pd.concat([frame, frame]))
