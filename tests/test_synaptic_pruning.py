"""Deletion in an associative memory: closed forms against integrals and literals, moments of fields against fields."""

from __future__ import annotations

import doctest
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm, t

from experiments.synaptic_pruning import closed_forms, measured, memory
from experiments.synaptic_pruning.closed_forms import DELETIONS, Deletion
from experiments.synaptic_pruning.study import Sizes, every
from lottery.reports.results import read

HERE = Path(__file__).parent.parent / "experiments" / "synaptic_pruning"
TABLE = {
    0.9: (0.9, 0.9995, 0.9942, 0.696), 0.75: (0.75, 0.9917, 0.9624, 0.767), 0.5: (0.5, 0.9287, 0.8367, 0.8079),
    0.4: (0.4, 0.8712, 0.7544, 0.7838), 0.3: (0.3, 0.7833, 0.6477, 0.7248), 0.25: (0.25, 0.7236, 0.583, 0.678),
    0.2: (0.2, 0.6498, 0.5086, 0.616), 0.1: (0.1, 0.4393, 0.3198, 0.4255), 0.05: (0.05, 0.2791, 0.1927, 0.2733),
    0.01: (0.01, 0.0845, 0.0538, 0.0836),
}  # fmt: skip
"""Squared correlations in the order of DELETIONS, by density."""


@pytest.mark.parametrize("module", [closed_forms, memory, measured], ids=lambda module: module.__name__)
def test_examples_are_true(module: object) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 0 == failed


@pytest.mark.parametrize("density", TABLE)
def test_closed_forms_are_the_table(density: float) -> None:
    found = [closed_forms.snr(deletion, density) for deletion in DELETIONS]
    assert found == pytest.approx(TABLE[density], abs=6e-4 if density in (0.9, 0.75) else 1.1e-4)


def modified(deletion: Deletion, cut: float, z: float) -> float:
    """g(z) for z above the threshold."""
    return {"minimal_value": z, "compressed": z - cut, "clipped": 1.0}[deletion]


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("deletion", DELETIONS[1:])
def test_moments_are_integrals(deletion: Deletion, density: float) -> None:
    cut = norm.isf(density / 2)

    def integral(power_of_z: int, power_of_g: int) -> float:
        def of(z: float) -> float:
            return z**power_of_z * modified(deletion, cut, z) ** power_of_g * norm.pdf(z)

        return 2 * quad(of, cut, inf, epsabs=1e-12)[0]

    found = closed_forms.moments(deletion, density)
    assert (found.signal, found.power, found.strength) == pytest.approx(
        (integral(1, 1), integral(0, 2), integral(0, 1)), abs=1e-9
    )


def test_four_fifths_is_the_best_share_to_delete_of_a_grown_network() -> None:
    assert 1 - closed_forms.best("minimal_value") == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("total", [0.5, 0.7, 0.9])
def test_no_other_deletion_does_as_well_as_compressed_with_as_much_strength(total: float) -> None:
    best = closed_forms.snr("compressed", closed_forms.density_of("compressed", total))
    for deletion in ("minimal_value", "clipped"):
        density = closed_forms.density_of(deletion, total)
        assert closed_forms.strength(deletion, density) == pytest.approx(total)
        assert closed_forms.snr(deletion, density) < best


@pytest.fixture(scope="module")
def patterns() -> memory.Floats:
    return memory.drawn(60, 300, 0.2, np.random.default_rng(0))


def shown(weights: np.ndarray, patterns: np.ndarray) -> float:
    """The ratio measured by showing every pattern to the network, with loops."""
    fields = {0.0: [], 1.0: []}
    for pattern in patterns.T.astype(np.float64):
        for neuron, field in enumerate(weights.astype(np.float64) @ pattern):
            fields[pattern[neuron]].append(field)
    silent, active = (np.array(fields[state]) for state in (0.0, 1.0))
    within = (silent.var() * len(silent) + active.var() * len(active)) / (len(silent) + len(active))
    return float((active.mean() - silent.mean()) ** 2 / within)


@pytest.mark.parametrize("deletion", DELETIONS)
def test_the_ratio_is_that_of_the_fields_of_every_pattern(deletion: Deletion, patterns: memory.Floats) -> None:
    stored = memory.stored(patterns, 0.2)
    order = memory.ranking(stored.weights, np.random.default_rng(1), deletion != "random")
    left = memory.deleted(deletion, stored.weights, order, 1000)
    for weights in (stored.weights, left, memory.regulated(left, stored.weights)):
        assert memory.snr(weights, stored) == pytest.approx(shown(weights, patterns), rel=1e-4)


def test_weights_are_the_covariance_rule_and_signal_one() -> None:
    patterns = np.float32([[1, 0], [1, 1], [0, 1]])
    weights = memory.stored(patterns, 0.5).weights
    assert weights.tolist() == pytest.approx(np.array([[0, 0, -2], [0, 0, 0], [-2, 0, 0]]) / 3)


def test_patterns_stored_in_parts_are_those_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHUNK", 7)
    parts = memory.stored_many(10, 20, 0.3, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    whole = memory.stored(np.hstack([memory.drawn(10, count, 0.3, rng) for count in (7, 7, 6)]), 0.3)
    assert parts.patterns == whole.patterns == 20
    np.testing.assert_allclose(parts.pairs, whole.pairs, atol=1e-5)
    np.testing.assert_allclose(parts.excess, whole.excess, atol=1e-5)


def test_each_deletion_by_hand() -> None:
    weights = np.float32([[0, 1, -2], [3, 0, 4], [-6, 8, 0]])
    order = memory.ranking(weights, np.random.default_rng(0), by_strength=True)
    assert weights.ravel()[order].tolist() == [8, -6, 4, 3, -2, 1]
    left = {deletion: memory.deleted(deletion, weights, order, 3) for deletion in DELETIONS}
    assert left["minimal_value"].tolist() == [[0, 0, 0], [0, 0, 4], [-6, 8, 0]]
    assert left["compressed"].tolist() == [[0, 0, 0], [0, 0, 0.5], [-2.5, 4.5, 0]]
    size = pytest.approx(sqrt(130 / 6))
    assert left["clipped"][1].tolist() == [0, 0, size]
    assert left["clipped"][2].tolist() == [pytest.approx(-sqrt(130 / 6)), size, 0]
    assert np.array_equal(left["random"], left["minimal_value"])  # of the same order


def test_random_order_leaves_no_synapse_out_and_none_onto_itself() -> None:
    order = memory.ranking(np.ones((4, 4), np.float32), np.random.default_rng(0), by_strength=False)
    assert sorted(order) == [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]
    assert list(order) != sorted(order)


def test_regulation_restores_every_neuron_s_mean_field_over_its_own_patterns(patterns: memory.Floats) -> None:
    weights = memory.stored(patterns, 0.2).weights
    order = memory.ranking(weights, np.random.default_rng(1), by_strength=True)
    left = memory.deleted("minimal_value", weights, order, 1500)

    def own(weights: memory.Floats) -> np.ndarray:
        fields = weights.astype(float) @ (patterns - patterns.dtype.type(0.2))
        return ((patterns - 0.2) * fields).sum(1)

    assert not np.allclose(own(left), own(weights), rtol=1e-3)
    np.testing.assert_allclose(own(memory.regulated(left, weights)), own(weights), rtol=1e-4)


def test_one_step_of_weakening_is_compressed_deletion_and_regulation(patterns: memory.Floats) -> None:
    weights = memory.stored(patterns, 0.2).weights + np.triu(np.random.default_rng(2).random((60, 60)), 1) * 1e-3
    sizes = np.sort(np.abs(weights), axis=None)[::-1]
    (left,) = memory.weakened(weights, [500])
    by_hand = np.sign(weights) * np.maximum(np.abs(weights) - sizes[500], 0)
    assert np.count_nonzero(left) == 500
    np.testing.assert_allclose(left, memory.regulated(by_hand, weights))
    *_, last = memory.weakened(weights, [500, 100])
    assert np.count_nonzero(last) == 100


def test_recall_restores_a_distorted_pattern_and_not_without_synapses() -> None:
    rng = np.random.default_rng(0)
    patterns = memory.drawn(300, 5, 0.2, rng)
    weights = memory.stored(patterns, 0.2).weights
    start = memory.distorted(patterns, 0.25, rng)
    assert np.array_equal(start.sum(0), patterns.sum(0))
    lost = ((patterns == 1) & (start == 0)).sum(0)
    assert lost.tolist() == np.rint(0.25 * patterns.sum(0)).tolist()
    assert memory.overlap(start, patterns, 0.2) < 0.75
    assert memory.overlap(memory.recalled(weights, start, 0.3, 20), patterns, 0.2) > 0.95
    assert not memory.recalled(weights * 0, start, 0.3, 20).any()


def test_strength_is_measured_at_the_old_signal() -> None:
    weights = np.float32([[0, 1, -2], [3, 0, 4], [-6, 8, 0]])
    assert memory.strength(weights / 2, weights) == pytest.approx(1)
    left = np.float32([[0, 0, 0], [0, 0, 4], [-6, 8, 0]])
    assert memory.strength(left, weights) == pytest.approx(18 / 24 * 130 / 116)


SMALL = Sizes(neurons=150, patterns=8000, small=60, small_patterns=2000, recall_neurons=100, recall_patterns=10)
SEEDS = 8


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    """Seeds of a study of small networks with so many patterns that weights are nearly normal."""
    return pd.DataFrame([row | {"file": name} for seed in range(SEEDS) for name, row in every(seed, SMALL)])


def test_a_small_network_keeps_to_the_closed_forms_within_its_interval(small: pd.DataFrame) -> None:
    """Intervals of 99.9 %, since there are many of them, and a hundredth of the value for what is finite.

    At 1 % a neuron has one or two synapses, and regulation cannot tell them from noise.
    """
    width, seen = t.isf(0.0005, SEEDS - 1), 0
    for name, form, widest in (("results", closed_forms.snr, 0.05), ("growth", closed_forms.grown, 0.3)):
        of = small[(small["file"] == name) & (small["round"] > 0)]
        for (arm, index), cells in of.groupby(["arm", "round"]):
            if (arm, index) == ("weakened", 10):
                continue
            exact = form("compressed" if arm == "weakened" else arm, cells["density"].mean())
            half = width * cells["test_snr"].sem()
            assert half < widest, (name, arm, index)
            assert abs(cells["test_snr"].mean() - exact) < half + 0.01 * exact, (name, arm, index, exact)
            seen += 1
    assert seen == 49 + 36


def test_every_deletion_keeps_as_many_synapses(small: pd.DataFrame) -> None:
    of = small[(small["file"] == "results") & (small["arm"] != "weakened")]
    assert (of.groupby("round")["density"].nunique() == 1).all()
    assert sorted(of["density"].unique()) == pytest.approx([*sorted(TABLE), 1], abs=1e-4)


def test_rows_are_read_as_reports_are(small: pd.DataFrame, tmp_path: Path) -> None:
    for name, rows in small.groupby("file"):
        rows.drop(columns="file").dropna(axis="columns").to_csv(tmp_path / f"{name}.csv", index=False)
        assert len(read(tmp_path / f"{name}.csv")) == len(rows)


def test_a_seed_says_everything() -> None:
    tiny = replace(SMALL, neurons=40, patterns=100, small=20, small_patterns=100)
    first, second = (list(every(3, tiny)) for _ in range(2))
    assert first == second != list(every(4, tiny))


def test_the_tables_of_the_readme_are_those_of_the_committed_results() -> None:
    text = (HERE / "README.md").read_text()
    for table in measured.tables(HERE).split("\n\n")[1::2]:
        assert table in text, table
