"""Layer collapse of VGG-16 at initialisation, against the compressions that Tanaka et al. (2020) print."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from experiments.layer_collapse import collapse as harness
from experiments.layer_collapse.collapse import collapse, last, main
from lottery.pruning.batchnorm import as_training_begins
from lottery.pruning.contracts import Criterion

RESULTS = Path(__file__).parent.parent / "experiments" / "layer_collapse" / "results.csv"
PUBLISHED = {"magnitude": 2.75, "random": 3.33}
"""last log10 compression on a grid of 0.25 at which each of 14 layers keeps a weight, mean of three draws"""
WEIGHTS = 14_710_464 + 51_200


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_draw_collapses_where_the_paper_s_do(name: str) -> None:
    below, beyond = {"magnitude": (2.25, 3.25), "random": (2.5, 4.25)}[name]
    rows = list(collapse(name, 1, 0, [], [below, beyond]))
    assert [row.kept for row in rows] == [round(WEIGHTS * 10**-each) for each in (below, beyond)]
    assert [row.dead > 0 for row in rows] == [False, True]
    assert rows[0].paths > 0 == rows[1].paths


def test_criteria_see_the_network_in_evaluation_mode_as_the_authors_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(criterion: Criterion, net: nn.Module, *_: object) -> None:
        with as_training_begins(net):
            seen.append(any(module.training for module in net.modules()))

    monkeypatch.setattr(harness, "scored", look)
    list(collapse("snip", 1, 0, [], []))
    assert seen == [False]


@pytest.mark.slow
def test_three_draws_collapse_within_a_step_of_the_grid_of_what_is_printed(tmp_path: Path) -> None:
    main(["--first", "2", "--out", str(tmp_path / "rows.csv")])
    found, committed = pd.read_csv(tmp_path / "rows.csv"), pd.read_csv(RESULTS)
    pd.testing.assert_frame_equal(found, committed[committed["compression"] >= 2].reset_index(drop=True))
    alive = found[found["dead"] == 0].groupby(["criterion", "draw"])["compression"].max().groupby("criterion").mean()
    assert alive.to_dict() == pytest.approx(PUBLISHED, abs=0.25)


@pytest.mark.slow
def test_steps_score_again_what_is_left() -> None:
    """In one step as many as in two; random scores are drawn anew, so that other weights are left."""
    one, two = ([*collapse("random", steps, 0, [], [2.0])] for steps in (1, 2))
    assert one[0].kept == two[0].kept == round(WEIGHTS / 100)
    assert one[0].paths != two[0].paths


def test_what_looked_at_data_is_what_its_table_says() -> None:
    rows = pd.read_csv(RESULTS.with_name("fashion_mnist.csv"))
    page = RESULTS.with_name("README.md").read_text()
    for name, of in rows.groupby("criterion"):
        layers, paths = last(of[of["dead"] == 0]), last(of[of["paths"] > 0])
        assert f"| {name} | 1 | 3 | {layers} | 3.58 | {paths} |" in page
