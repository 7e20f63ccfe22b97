"""Overlap of masks: exact on masks that can be counted by eye, chance against shuffles, a small study's table."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lottery.commands.overlap import FILE, publish
from lottery.config.compose import cell_configs
from lottery.pruning.masks import Masks, shuffled
from lottery.reports.overlap import by_chance, compare, shared
from lottery.reports.results import read
from lottery.running.launch import run_cell
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger
from tests.conftest import TINY


def masks(**layers: str) -> Masks:
    """`a="110"`: a layer's kept weights."""
    return {name: torch.tensor([digit == "1" for digit in digits]) for name, digits in layers.items()}


def test_shared_counts_against_the_sparser_mask() -> None:
    one, other = masks(a="1110", b="11"), masks(a="0111", b="00")
    assert shared(one, other) == shared(other, one) == 2 / 3
    assert shared(one, one) == 1
    assert shared(masks(a="1100"), masks(a="0011")) == 0
    assert shared(masks(a="1111"), masks(a="0010")) == 1  # all of the sparser one
    assert shared(masks(a="0000"), masks(a="1111")) == 0


def test_chance_goes_layer_by_layer() -> None:
    one, other = masks(a="1110", b="10"), masks(a="0110", b="11")
    assert by_chance(one, other) == by_chance(other, one) == (3 * 2 / 4 + 1 * 2 / 2) / 4
    assert by_chance(masks(a="1111"), masks(a="0100")) == 1
    assert by_chance(masks(a="0000"), masks(a="0000")) == 0
    # of one layer: the other's density
    assert by_chance(masks(a="10000000"), masks(a="11000000")) == 0.25


def test_chance_is_the_mean_over_shuffles() -> None:
    rng = torch.Generator().manual_seed(0)
    one = {"a": torch.rand(7, 9, generator=rng) < 0.3, "b": torch.rand(40, generator=rng) < 0.7, "c": torch.ones(3) > 0}
    other = {"a": torch.rand(7, 9, generator=rng) < 0.6, "b": torch.rand(40, generator=rng) < 0.1, "c": one["c"]}
    drawn = [shared(one, shuffled(other, rng)) for _ in range(3000)]
    error = float(np.std(drawn)) / len(drawn) ** 0.5
    assert error < 0.003
    assert abs(float(np.mean(drawn)) - by_chance(one, other)) < 4 * error


pairs = st.integers(1, 30).flatmap(lambda n: hnp.arrays(bool, (2, n)))


@given(pairs, pairs)
def test_both_are_shares_and_the_same_from_both_sides(a: np.ndarray, b: np.ndarray) -> None:
    one, other = ({"a": torch.from_numpy(a[i]), "b": torch.from_numpy(b[i])} for i in range(2))
    for measure in (shared, by_chance):
        assert 0 <= measure(one, other) <= 1 + 1e-9
        assert measure(one, other) == pytest.approx(measure(other, one))
    both = (a[0] & a[1]).sum() + (b[0] & b[1]).sum()
    least = min(a[0].sum() + b[0].sum(), a[1].sum() + b[1].sum())
    assert shared(one, other) == both / max(1, least)
    everything = {name: torch.ones_like(mask) for name, mask in one.items()}
    if least:
        assert shared(one, everything) == by_chance(one, everything) == (1 if a[0].sum() + b[0].sum() else 0)


# a small study

ARMS, SEEDS = ("imp", "random_reinit", "random_mask"), (0, 1)
PAIR = ["arm", "seed", "other_arm", "other_seed"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("overlap") / "runs"
    for arm in ARMS:
        for seed in SEEDS:
            job = cell_configs([*TINY, "schedule.keep=0.5", f"arm={arm}", f"seed={seed}", f"out={out}"])[0]
            run_cell(job)
    return job.folder.parent.parent


def test_pairs_differ_in_seed_or_arm_but_not_in_both(study: Path) -> None:
    frame = compare(study)
    assert list(frame.columns) == ["round", "density", "between", *PAIR, "shared", "chance"]
    of_round = {
        ("imp", 0, "imp", 1): "seeds of imp",
        ("random_mask", 0, "random_mask", 1): "seeds of random_mask",
        ("random_reinit", 0, "random_reinit", 1): "seeds of random_reinit",
    }
    for seed in SEEDS:
        of_round |= {
            ("imp", seed, "random_mask", seed): "imp and random_mask",
            ("imp", seed, "random_reinit", seed): "imp and random_reinit",
            ("random_mask", seed, "random_reinit", seed): "random_mask and random_reinit",
        }
    for index, part in frame.groupby("round"):
        assert {(r.arm, r.seed, r.other_arm, r.other_seed): r.between for r in part.itertuples()} == of_round
        assert len(part) == len(of_round)
        lines = [line for line in _lines(study) if line["round"] == index]
        assert set(part["density"]) <= {line["density"] for line in lines}
    assert sorted(set(frame["round"])) == [1, 2]  # of the dense round there is nothing to compare


def test_values_of_a_study(study: Path) -> None:
    frame = compare(study).set_index(["round", *PAIR])
    for index in (1, 2):
        for seed in SEEDS:
            same = frame.loc[(index, "imp", seed, "random_reinit", seed)]
            assert same["shared"] == 1
            drawn = frame.loc[(index, "imp", seed, "random_mask", seed)]
            assert drawn["shared"] == pytest.approx(drawn["chance"], abs=0.02)
        seeds = frame.loc[(index, "random_mask", 0, "random_mask", 1)]
        assert seeds["shared"] == pytest.approx(seeds["chance"], abs=0.02)
        # the same counts in each layer, so chance is the mean density of a kept weight's layer
        line = next(line for line in _lines(study) if line["round"] == index)
        sizes = {"fc1.weight": 19200, "fc2.weight": 30000, "output.weight": 1000}
        kept = {name: line["layer_densities"][name] * size for name, size in sizes.items()}
        mean = sum(count * line["layer_densities"][name] for name, count in kept.items()) / sum(kept.values())
        assert same["chance"] == pytest.approx(mean)


def test_the_table_averages_pairs_of_a_kind(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(study)
    frame = pd.read_csv(study / FILE)
    pd.testing.assert_frame_equal(frame[["shared", "chance"]], compare(study)[["shared", "chance"]])
    rows = [line.strip("| ").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 2 * 6
    for index, _, what, pairs, common, chance in (map(str.strip, row) for row in rows):
        part = frame[(frame["round"] == int(index)) & (frame["between"] == what)]
        assert int(pairs) == len(part) == (1 if what.startswith("seeds") else 2)
        mean, plus_minus, half = common.partition(" ± ")
        assert float(mean) == pytest.approx(part["shared"].mean(), abs=1e-4)
        assert float(chance) == pytest.approx(part["chance"].mean(), abs=1e-4)
        assert bool(plus_minus) == (len(part) == 2 and part["shared"].nunique() == 2)
        if half:  # 95 % of Student's t with one degree of freedom: 12.706
            assert float(half) == pytest.approx(12.7062 * abs(np.subtract(*part["shared"])) / 2, abs=1e-4)


def test_a_study_that_has_moved_with_its_store(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study.parent, tmp_path / "moved")
    shutil.move(study.parent, study.parent.with_name("away"))
    try:
        assert len(compare(tmp_path / "moved" / study.name)) == 2 * 9
    finally:
        shutil.move(study.parent.with_name("away"), study.parent)


def test_ledgers_without_their_store(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study.parent, tmp_path / "runs", ignore=shutil.ignore_patterns("store"))
    shutil.move(study.parent, study.parent.with_name("away"))
    try:
        with pytest.raises(FileNotFoundError, match=r"^the phase [0-9a-f]{64} of round 1 is in neither ") as gone:
            compare(tmp_path / "runs" / study.name)
        assert "\n" not in str(gone.value)
    finally:
        shutil.move(study.parent.with_name("away"), study.parent)


def test_nothing_to_compare(study: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as nothing:
        compare(tmp_path)
    assert str(nothing.value) == f"{tmp_path}: there is no pruned round in it"
    shutil.copytree(study.parent, tmp_path / "runs")
    here = tmp_path / "runs" / study.name
    for arm in ARMS[1:]:
        shutil.rmtree(here / arm)
    shutil.rmtree(here / "imp" / "seed1")
    alone = compare(here)  # one cell: no pair
    assert len(alone) == 0
    path = here / "imp" / "seed0" / NAME
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(FileNotFoundError, match=r"there is no pruned round in it$"):
        compare(here)


def test_rounds_that_some_cells_lack(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study.parent, tmp_path / "runs")
    here = tmp_path / "runs" / study.name
    path = here / "imp" / "seed1" / NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    frame = compare(here)
    assert len(frame[frame["round"] == 1]) == 9
    assert len(frame[frame["round"] == 2]) == 9 - 3
    second = frame[frame["round"] == 2]
    assert ("imp", 1) not in set(zip(second["arm"], second["seed"], strict=True))


def _lines(study: Path) -> list[dict]:
    assert len(read(study)) == 3 * len(ARMS) * len(SEEDS)
    return [line for path in sorted(study.glob(f"*/*/{NAME}")) for line in Ledger(path).lines()]
