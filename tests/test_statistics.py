"""Statistics of replicates against tables, hands and scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lottery.reports import intervals, statistics
from tests.test_results import STUDY, line

NAN = float("nan")


# Student's t at 0.975 as printed in tables, by degrees of freedom
@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_many_intervals_at_once_have_the_published_width(freedom: int, quantile: float) -> None:
    values = np.stack([np.arange(freedom + 1.0), 7 * np.arange(freedom + 1.0)])
    found = statistics.spread(np.pad(values, ((0, 0), (0, 3)), constant_values=NAN))
    for row, scale in enumerate((1, 7)):
        deviation = scale * math.sqrt(sum((value - freedom / 2) ** 2 for value in range(freedom + 1)) / freedom)
        assert round(found.half[row] / deviation * math.sqrt(freedom + 1), 3) == quantile
        assert (found.mean[row], found.n[row]) == (scale * freedom / 2, freedom + 1)


def test_a_few_that_agree_by_chance_have_no_interval() -> None:
    rows = [[0.95] * n + [NAN] * (5 - n) for n in range(6)]
    found = statistics.spread(rows)
    assert found.half.tolist() == [math.inf] * 5 + [0.0]
    assert found.n.tolist() == [0, 1, 2, 3, 4, 5]
    # one of 500 test examples in each: differences that are equal but for their last bit
    lost = [0.878 - 0.880, 0.936 - 0.938, 0.966 - 0.968]
    assert len(set(lost)) > 1
    assert statistics.spread([lost]).half.tolist() == [math.inf]
    assert statistics.spread([[*lost, *lost]]).half.tolist() == [0.0]
    assert 0 < statistics.spread([[0.878, 0.880, 0.880]]).half[0] < 0.01
    assert statistics.mean_interval([0.95, 0.95]) == (0.95, math.inf)
    assert statistics.match(0.0, math.inf, 0.005) == "undecided"


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04, and the last may not fall below 0.06
    assert statistics.holm([0.01, 0.04, NAN, 0.03, 0.005]) == pytest.approx([0.03, 0.06, NAN, 0.06, 0.02], nan_ok=True)
    assert statistics.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).tolist() == []


def test_a_comparison_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 4, 6))
    found = statistics.compare(first - second)
    for row in range(4):
        assert found.p[row] == pytest.approx(stats.ttest_rel(first[row], second[row]).pvalue, rel=1e-9)


def test_effects_carry_the_published_correction() -> None:
    # Hedges 1981, table 2: c(m) for m = 2, 4, 9 degrees of freedom
    for freedom, factor in ((2, 0.5642), (4, 0.7979), (9, 0.9139)):
        values = np.arange(freedom + 1.0)
        found = statistics.compare(values)
        assert found.effect / (values.mean() / values.std(ddof=1)) == pytest.approx(factor, abs=2e-4)


def test_comparisons_that_say_nothing() -> None:
    few = [[0.1] + [NAN] * 4, [0.1, 0.1] + [NAN] * 3, [NAN] * 5, [0.1] * 3 + [NAN] * 2]
    found = statistics.compare([*few, [0.0] * 5])
    assert np.isnan(found.p).tolist() == [True, True, True, True, False]
    assert (found.p[4], found.effect[4]) == (1.0, 0.0)


def test_interquartile_mean_is_the_trimmed_mean() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 30):
        values = rng.normal(size=n)
        assert statistics.iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_one_stratum_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=20)
    middle, low, high = statistics.iqm_interval([values])
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert middle == pytest.approx(stats.trim_mean(values, 0.25))
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_strata_are_resampled_apart() -> None:
    # within each stratum all are equal, so that a stratified bootstrap varies nothing, and an unstratified one would
    assert statistics.iqm_interval([[1.0] * 4, [3.0] * 4]) == (2.0, 2.0, 2.0)
    assert statistics.iqm_interval([]) == pytest.approx((NAN, NAN, NAN), nan_ok=True)
    assert statistics.iqm_interval([[1.0, 2.0], [3.0, 4.0]]) == pytest.approx((2.5, NAN, NAN), nan_ok=True)


def played(**scores: list[list[float]]) -> pd.DataFrame:
    """Arms by name, each with a list of seeds for each round; densities halve from round to round."""
    rows = [
        line(arm, seed, 0, score) | {"round": index, "density": 0.5**index}
        for arm, rounds in scores.items()
        for index, seeds in enumerate(rounds)
        for seed, score in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def test_arms_are_compared_at_each_density_and_corrected_together() -> None:
    rng = np.random.default_rng(0)
    arms = {arm: [(0.9 + rng.normal(size=5) / 100).tolist() for _ in range(3)] for arm in ("imp", "a", "b")}
    found = intervals.compared(played(**arms))
    assert found[["first", "second", "round"]].values.tolist() == [
        [*pair, index] for pair in (("imp", "a"), ("imp", "b"), ("a", "b")) for index in (1, 2)
    ]
    raw = [stats.ttest_rel(arms[one][index], arms[two][index]).pvalue for one, two, index in
           found[["first", "second", "round"]].itertuples(index=False)]  # fmt: skip
    assert found["p"].tolist() == pytest.approx(raw)
    least = min(raw)
    assert found["holm"].min() == pytest.approx(min(1.0, 6 * least))


def test_rounds_of_unlike_density_are_no_pair() -> None:
    frame = played(imp=[[0.9, 0.8, 0.7]] * 3, other=[[0.9, 0.8, 0.6]] * 3)
    frame.loc[(frame["arm"] == "other") & (frame["round"] == 2), "density"] = 0.2
    assert intervals.compared(frame)["round"].tolist() == [1]


def test_how_sure_the_sparsest_match_is() -> None:
    dense, apart = [0.70, 0.71, 0.72], {"yes": [0.01, 0.011, 0.012], "no": [-0.1, -0.11, -0.12], "?": [0.0, 0.1, -0.1]}
    rounds = [[score + d for score, d in zip(dense, apart[key], strict=True)] for key in ("yes", "?", "yes", "?", "no")]
    found = intervals.sparsest(intervals.matching(played(imp=[dense, *rounds])))
    assert found.to_dict("records") == [
        {"arm": "imp", "density": 0.125, "matching": 2, "rounds": 3, "surely": 0.5, "possibly": 0.0625}
    ]
    assert played(imp=[dense])["study"].iloc[0] == STUDY
