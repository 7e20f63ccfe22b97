"""`lottery.plot`: the report's figure for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import lottery
from lottery.foundations.metrics import Headline
from lottery.reports import tradeoff
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


def test_points_of_a_tradeoff_are_joined_in_order_of_their_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not as they were asked for; the fastest need not be the smallest."""
    drawn = Figure()

    @contextmanager
    def sheet(*_: object) -> Iterator[Figure]:
        yield drawn

    monkeypatch.setattr(tradeoff, "sheet", sheet)
    points = pd.DataFrame({
        "point": ["dense", "0.1", "0.5"], "test_accuracy": [0.9, 0.7, 0.8], "bytes": [100, 10, 50],
        "multiply_adds": [300, 30, 150], "ms_1": [3.0, 2.0, 1.0], "ms_low_1": [2.9, 1.9, 0.9], "ms_high_1": [4, 3, 2],
    })  # fmt: skip
    tradeoff.draw_points(points, Headline.named("accuracy"), Path("points.png"))
    lines = [axes.get_lines()[0] for axes in drawn.axes]
    assert [list(line.get_xdata()) for line in lines] == [[10, 50, 100], [30, 150, 300], [0.001, 0.002, 0.003]]
    assert [list(line.get_ydata()) for line in lines] == [[0.7, 0.8, 0.9], [0.7, 0.8, 0.9], [0.8, 0.7, 0.9]]
    assert [[each.get_text() for each in axes.texts] for axes in drawn.axes][-1] == ["0.5", "0.1", "dense"]
