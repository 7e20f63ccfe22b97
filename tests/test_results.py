"""Reports from ledgers: intervals, verdicts, missing results, tables and figures."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lottery.commands import report as publishing
from lottery.commands import status
from lottery.config.compose import cell_configs
from lottery.config.differences import called
from lottery.foundations.errors import Refused
from lottery.foundations.metrics import Headline, headline
from lottery.reports import comparison, drawing, intervals, results, statistics
from lottery.reports import figures as figure
from lottery.reports import tables as report
from lottery.reports.folder import write
from lottery.store.folder import leave_error
from lottery.store.ledger import LedgerError

STUDY = "demo-digits-12345678"
DENSITY = (1.0, 0.5, 0.125)
ACCURACY = {  # arm -> seed -> by round
    "imp": {0: (0.90, 0.92, 0.85), 1: (0.94, 0.95, 0.83), 2: (0.98, 0.98, 0.90)},
    "random_reinit": {0: (0.90, 0.86, 0.70), 1: (0.94, 0.90, 0.72), 2: (0.98, 0.88, 0.74)},
}
STOP = (300, 150, 200)


def line(arm: str, seed: int, index: int, accuracy: float, study: str = STUDY, rounds: int = 2) -> dict[str, Any]:
    """A ledger line as a run leaves it."""
    return {
        "study": study, "arm": arm, "seed": seed, "round": index, "rounds": rounds, "density": DENSITY[index],
        "train_steps": 600, "val_accuracy": accuracy, "val_loss": 0.25, "test_accuracy": accuracy, "test_loss": 0.5,
        "early_stop_step": STOP[index] + 10 * seed, "early_stop_test_accuracy": accuracy - 0.01,
        "compression_ratio": 1 / DENSITY[index], "layer_densities": {"fc.weight": DENSITY[index]}, "phase": "0" * 64,
        "run": {"seconds": 1.5, "reused": False, "host": "h", "started": "s", "finished": "f"},
    }  # fmt: skip


def ledgers(out: Path, played: dict[str, dict[int, tuple[float, ...]]], study: str = STUDY) -> Path:
    """Writes the ledgers of a study by hand; gives its folder."""
    for arm, seeds in played.items():
        for seed, scores in seeds.items():
            path = out / study / arm / f"seed{seed}" / "ledger.jsonl"
            path.parent.mkdir(parents=True)
            lines = [json.dumps(line(arm, seed, index, score, study)) for index, score in enumerate(scores)]
            path.write_text("\n".join(lines) + "\n")
    return out / study


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return results.read(ledgers(tmp_path, ACCURACY))


def matches_dense(frame: pd.DataFrame, arm: str, index: int, margin: float | None = None) -> str:
    """What is said of one round of an arm, nothing of one that is not there."""
    found = intervals.matching(frame[frame["arm"] == arm], margin)
    return str(found.set_index("round")["match"].get(index, "undecided"))


# Student's t at 0.975 as printed in tables, by degrees of freedom
@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_interval_has_the_published_width(freedom: int, quantile: float) -> None:
    values = np.linspace(0.8, 0.9, freedom + 1)
    mean, half = statistics.mean_interval(values)
    deviation = math.sqrt(sum((value - 0.85) ** 2 for value in values) / freedom)
    assert mean == pytest.approx(0.85)
    assert round(half / deviation * math.sqrt(freedom + 1), 3) == quantile


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_interval_is_that_of_the_t_test(values: list[int]) -> None:
    mean, half = statistics.mean_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_one_value_has_no_interval() -> None:
    assert statistics.mean_interval([0.5]) == (0.5, math.inf)


def test_the_frame_holds_every_line_in_order(frame: pd.DataFrame) -> None:
    assert frame[results.KEYS].values.tolist() == [
        [STUDY, arm, seed, index] for arm in ("imp", "random_reinit") for seed in (0, 1, 2) for index in (0, 1, 2)
    ]
    assert frame["test_accuracy"].tolist() == [score for arm in ACCURACY.values() for s in arm.values() for score in s]
    assert frame["density/fc.weight"].tolist() == list(DENSITY) * 6
    assert set(frame["run/host"]) == {"h"}
    assert headline(frame) == Headline("accuracy", higher_is_better=True, share=True)


def test_tickets_come_first_and_rewinding_steps_by_their_size(tmp_path: Path) -> None:
    arms = ["imp", "imp,rewind=50it", "imp,rewind=200it", "finetune", "lr_rewind,rewind=9it", "lr_rewind,rewind=10it"]
    frame = results.read(ledgers(tmp_path, {arm: {0: (0.9,)} for arm in sorted(arms)}))
    assert list(frame["arm"]) == arms


def test_folders_that_overlap_are_read_once_and_contradictions_refused(tmp_path: Path) -> None:
    study = ledgers(tmp_path / "a", ACCURACY)
    assert len(results.read(tmp_path, study, study / "imp" / "seed0")) == 18
    ledgers(tmp_path / "b", {"imp": {0: (0.90, 0.93)}})
    with pytest.raises(LedgerError, match=r"seed0/ledger.jsonl and .*seed0/ledger.jsonl hold different results"):
        results.read(tmp_path)


def with_data(folder: Path, digests: dict[int, str]) -> None:
    """Gives the ledgers of some seeds a digest of their data."""
    for seed, digest in digests.items():
        for path in folder.glob(f"*/seed{seed}/ledger.jsonl"):
            lines = [json.loads(text) | {"data": digest} for text in path.read_text().splitlines()]
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_of_ledgers_with_other_data_each_that_is_dropped_is_named(tmp_path: Path) -> None:
    """Seed 0 is older than the column; seeds 2, 4 and 5 have what most have."""
    study = ledgers(tmp_path, {"imp": dict.fromkeys(range(6), ACCURACY["imp"][0])})
    with_data(study, {1: "d2", 2: "d1", 3: "d3", 4: "d1", 5: "d1"})
    frame, problems = results.gather(study)
    assert sorted(frame["seed"].unique()) == [0, 2, 4, 5]
    kept = study / "imp" / "seed2" / "ledger.jsonl"
    assert problems == [
        f"{kept.parents[1]}/seed{seed}/ledger.jsonl: {STUDY} was measured with another data than in {kept}; "
        "report one of them"
        for seed in (1, 3)
    ]


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^lottery.read: give it at least one folder with ledgers or results.csv, as"):
        results.read()
    with pytest.raises(FileNotFoundError, match=f"no finished round under {tmp_path}"):
        results.read(tmp_path)


def made(dense: list[float], pruned: dict[int, float]) -> pd.DataFrame:
    """Dense scores of seeds 0, 1, ... and the pruned scores of some seeds, in no order."""
    rows = [line("imp", seed, 0, score) for seed, score in enumerate(dense)]
    rows += [line("imp", seed, 1, score) for seed, score in reversed(pruned.items())]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.010, 0.011, 0.012], "yes"),
        ([-0.004, -0.0041, -0.0042], "yes"),  # within the margin
        ([-0.020, -0.021, -0.022], "no"),
        ([-0.006, -0.0061, -0.0062], "no"),
        ([0.010, -0.010, 0.0], "undecided"),
        ([0.1], "undecided"),
        ([-0.1], "undecided"),
        ([], "undecided"),
    ],
)
def test_matches_dense(differences: list[float], verdict: str) -> None:
    # seeds differ by far more than the arms do: only pairing sees through it
    dense = [0.5, 0.9, 0.7]
    frame = made(dense, {seed: dense[seed] + difference for seed, difference in enumerate(differences)})
    assert matches_dense(frame, "imp", 1) == verdict
    assert matches_dense(frame, "imp", 0) == "yes"


def test_the_margin_decides() -> None:
    frame = made([0.5, 0.9, 0.7], {0: 0.490, 1: 0.889, 2: 0.688})
    assert [matches_dense(frame, "imp", 1, margin) for margin in (0.005, 0.011, 0.02)] == [
        "no", "undecided", "yes",
    ]  # fmt: skip


def test_difference_pairs_by_seed() -> None:
    frame = made([0.5, 0.9, 0.7, 0.6], {3: 0.61, 0: 0.52, 1: 0.93})
    found = intervals.matching(frame).set_index("round").loc[1]
    assert (round(found["gain"], 12), found["n"]) == (0.02, 3)
    assert found["half"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)


def test_sparsest_match(frame: pd.DataFrame) -> None:
    assert intervals.sparsest_match(frame, "imp", margin=0.02) == (0.5, 1, 1)
    assert intervals.sparsest_match(frame, "imp", margin=0.3) == (0.125, 2, 2)
    assert intervals.sparsest_match(frame, "random_reinit") is None


def chain(*differences: float) -> pd.DataFrame:
    """Five seeds whose rounds differ from dense by so much."""
    rows = [line("imp", seed, 0, 0.9) for seed in range(5)]
    for index, difference in enumerate(differences, start=1):
        rows += [line("imp", seed, 2, 0.9 + difference) | {"round": index, "density": 0.5**index} for seed in range(5)]
    return pd.DataFrame(rows)


def test_how_many_rounds_match_tells_luck_from_a_ticket() -> None:
    assert intervals.sparsest_match(chain(0.0, 0.01, -0.1, 0.02, -0.1), "imp") == (0.0625, 3, 4)
    assert "- imp: 6.25%, as 3 of the 4 rounds down to it" in report.render(chain(0.0, 0.01, -0.1, 0.02, -0.1))
    assert intervals.sparsest_match(chain(-0.1, -0.02), "imp") is None


def test_the_seeds_that_are_left_decide_nothing() -> None:
    assert matches_dense(made([0.9, 0.9, 0.9], {0: 0.95, 1: 0.951, 2: 0.95}), "imp", 1) == "yes"
    assert matches_dense(made([0.9, 0.9, 0.9], {0: 0.95, 1: 0.951}), "imp", 1) == "undecided"


def of_metric(frame: pd.DataFrame, name: str, **said: str) -> pd.DataFrame:
    """The frame with scores under another metric name, with the ledger's facts about that metric."""
    columns = {f"{part}_accuracy": f"{part}_{name}" for part in ("val", "test", "early_stop_test")}
    return frame.drop(columns=["test_loss", "val_loss"]).rename(columns=columns).assign(**said)


LOWER = {"headline_better": "lower", "headline_scale": "other"}


@pytest.mark.parametrize(
    ("name", "said", "found"),
    [
        ("accuracy", {}, (True, True)),
        ("loss", {}, (False, False)),
        ("mae", {}, (True, True)),  # what older ledgers left open
        ("mae", LOWER, (False, False)),
        ("error", {"headline_better": "lower"}, (False, True)),
    ],
)
def test_the_headline_is_what_the_lines_say(
    name: str, said: dict[str, str], found: tuple[bool, bool], frame: pd.DataFrame
) -> None:
    assert headline(of_metric(frame, name, **said)) == Headline(name, *found)
    assert Headline(name, *found).columns() == (said if name != "mae" or said else {})


def test_what_leaves_the_interval_is_no_share(frame: pd.DataFrame) -> None:
    frame = of_metric(frame, "r2")
    frame.loc[0, "test_r2"] = np.nan
    assert headline(frame).share
    frame.loc[0, "test_r2"] = -0.1
    assert headline(frame) == Headline("r2", higher_is_better=True, share=False)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.4, 0.41, 0.42], "no"),  # dense error 0.1, pruned 0.5
        ([-0.04, -0.041, -0.042], "yes"),
        ([0.004, 0.0041, 0.0042], "yes"),  # within the margin
        ([0.010, -0.010, 0.0], "undecided"),
    ],
)
def test_a_higher_error_matches_no_dense_network(differences: list[float], verdict: str) -> None:
    dense = [0.5, 0.1, 0.3]
    frame = made(dense, {seed: dense[seed] + difference for seed, difference in enumerate(differences)})
    error = of_metric(frame, "error", headline_better="lower")
    assert matches_dense(error, "imp", 1) == verdict
    assert (intervals.sparsest_match(error, "imp") is not None) == (verdict == "yes")
    assert "Test error (lower is better; mean and 95 % interval over seeds)" in report.render(error)


def test_half_a_point_is_no_margin_on_another_scale(frame: pd.DataFrame) -> None:
    mae = of_metric(frame, "mae", **LOWER)
    with pytest.raises(ValueError, match=r"^mae is no share in \[0, 1\], so no margin is defined for it: give one$"):
        matches_dense(mae, "imp", 1)
    assert matches_dense(mae, "imp", 1, margin=0.2) == "yes"
    for other, name in ((mae, "mae"), (of_metric(frame, "loss"), "loss")):
        text = report.render(other)
        assert text.endswith(
            "\nWhich densities match dense is not judged: half a point is a margin for metrics within 0 and 1, "
            f"and {name} is none.\n"
        )
        assert "points" not in text
    assert "margin 0.5 points" in report.render(frame)


def test_small_numbers_of_another_scale_keep_their_digits(frame: pd.DataFrame) -> None:
    small = of_metric(frame, "mae", **LOWER)
    small["test_mae"] /= 1e6
    assert "| 0.0000009500 ± 0.0000000745 |" in report.render(small)


def test_seeds_without_a_number_are_left_out_and_said(frame: pd.DataFrame) -> None:
    frame.loc[(frame["arm"] == "imp") & (frame["round"] == 1) & (frame["seed"] == 2), "test_accuracy"] = np.nan
    frame.loc[(frame["arm"] == "imp") & (frame["round"] == 2), "test_accuracy"] = np.nan
    text = re.sub(" +", " ", report.render(frame))
    assert "| 50.00% | 0.9350 ± 0.1906 (n = 2) | 160 ± 25 | 0.8800 ± 0.0497 | 160 ± 25 | +0.0550" in text
    assert "| 12.50% | no number | 210 ± 25 | 0.7200 ± 0.0497 | 210 ± 25 | no seed in common |" in text
    said = "In 4 of the 18 rounds of all seeds test accuracy is no finite number; means and differences leave them out."
    assert said in text
    assert matches_dense(frame, "imp", 1) == "undecided"
    assert matches_dense(frame, "imp", 2) == "undecided"


def test_a_dense_network_without_a_number_leaves_undecided() -> None:
    frame = made([0.9, 0.9, 0.9], {0: 0.95, 1: 0.951, 2: 0.95})
    assert matches_dense(frame, "imp", 1) == "yes"
    frame.loc[0, "test_accuracy"] = np.nan
    assert matches_dense(frame, "imp", 1) == "undecided"


def test_where_nothing_was_pruned_no_density_matches(frame: pd.DataFrame) -> None:
    assert "matches dense" in report.accuracies(frame)
    assert "matches dense" not in report.accuracies(frame[frame["round"] == 0])


def test_rounds_of_unlike_density_are_not_compared(frame: pd.DataFrame) -> None:
    def last(frame: pd.DataFrame) -> list[str]:
        rows = [line for line in report.render(frame).splitlines() if line.startswith("| ")]
        return [row.strip("| ").rpartition("| ")[2].strip() for row in rows[1:]]

    assert last(frame) == ["-", "+0.0700 ± 0.0657", "+0.1400 ± 0.0657"]
    thinner = (frame["arm"] == "imp") & (frame["round"] == 2)
    assert last(frame.assign(density=frame["density"].where(~thinner, 0.11))) == ["-", "+0.0700 ± 0.0657", "-"]


def test_missing_names_cells_and_rounds(tmp_path: Path) -> None:
    played = {"imp": {0: (0.9, 0.9, 0.9), 4: (0.9,)}, "random_reinit": {0: (0.9, 0.8)}}
    assert results.missing(results.read(ledgers(tmp_path, played))) == [
        f"{STUDY} imp seed 4: 0 of 2 pruned rounds",
        f"{STUDY} random_reinit seed 0: 1 of 2 pruned rounds",
        f"{STUDY} random_reinit seed 4: not begun",
    ]


def test_missing_names_arms_of_which_no_round_is_there_as_status_does(tmp_path: Path) -> None:
    study = ledgers(tmp_path, {"imp": {0: (0.9, 0.9, 0.9), 1: (0.9, 0.9), 2: (0.9, 0.9, 0.9)}})
    for arm, seed in (("gone", 0), ("gone", 1), ("begun", 0), ("later", 0)):
        (study / arm / f"seed{seed}").mkdir(parents=True)
    for cell in ("gone/seed0", "gone/seed1", "imp/seed1", "imp/seed2"):
        leave_error(study / cell, "no such layer", "a traceback")
    (study / "begun" / "seed0" / "config.yaml").write_text("seed: 0\n")
    frame = results.read(study)
    assert results.missing(frame) == [
        f"{STUDY} begun seed 0: no round finished",
        f"{STUDY} gone seed 0: failed: no such layer",
        f"{STUDY} gone seed 1: failed: no such layer",
        f"{STUDY} imp seed 1: 1 of 2 pruned rounds, failed: no such layer",
        f"{STUDY} imp seed 2: failed: no such layer",
        f"{STUDY} later seed 0: not begun",
    ]
    assert f"- {STUDY} gone seed 1: failed: no such layer" in report.render(frame)
    facts = [status.look(cell) for cell in status.find([study])]
    open_ = {(cell.arm, cell.seed) for cell in facts if status.state(cell, None) != "finished"}
    assert open_ == {(line.split()[1], int(line.split()[3][:-1])) for line in results.missing(frame)}
    # the ledgers of other arms than those that one asks for are not missing
    assert results.missing(results.read(study / "imp" / "seed0"))[-2:] == [
        f"{STUDY} imp seed 2: failed: no such layer", f"{STUDY} later seed 0: not begun",
    ]  # fmt: skip


def test_a_round_that_a_seed_lacks_has_an_n_of_its_own(tmp_path: Path) -> None:
    played = {"imp": {0: (0.9, 0.9, 0.9), 4: (0.9, 0.8), 5: (0.8, 0.9, 0.8)}}
    rows = report.accuracy_rows(results.read(ledgers(tmp_path, played)))
    assert rows[2][2] == "180 ± 66"
    assert rows[3][2].endswith("(n = 2)")


def test_nothing_is_missing_in_a_finished_study(frame: pd.DataFrame) -> None:
    assert results.missing(frame) == []
    assert "missing" not in report.render(frame)


def half(values: list[float]) -> float:
    """Half the width of the interval for three values, by hand."""
    mean = sum(values) / 3
    return 4.30265272975 * math.sqrt(sum((value - mean) ** 2 for value in values) / 2 / 3)


def test_the_table_holds_what_a_hand_computes(frame: pd.DataFrame) -> None:
    rows = [row.strip("| ").split(" | ") for row in report.render(frame).splitlines() if row.startswith("|")]
    heads = [cell.strip() for cell in rows[0]]
    assert heads == ["density", "imp", "early stop", "random_reinit", "early stop", "imp - random_reinit"]
    for index, row in enumerate(rows[2:]):
        ticket, control = ([scores[index] for scores in ACCURACY[arm].values()] for arm in ("imp", "random_reinit"))
        apart = [a - b for a, b in zip(ticket, control, strict=True)]
        expected = [
            f"{DENSITY[index]:.2%}",
            f"{sum(ticket) / 3:.4f} ± {half(ticket):.4f}",
            f"{STOP[index] + 10} ± 25",
            f"{sum(control) / 3:.4f} ± {half(control):.4f}",
            f"{STOP[index] + 10} ± 25",
            f"{sum(apart) / 3:+.4f} ± {half(apart):.4f}" if index else "-",
        ]
        assert [cell.strip() for cell in row] == expected
    assert len(rows) == 5


def test_the_report_of_a_literal_ledger(frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text() == REPORT


def test_the_frame_of_a_report_leaves_out_how_it_was_run(frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path)
    written = pd.read_csv(tmp_path / "results.csv")
    assert list(written) == [column for column in frame if not column.startswith("run/")]
    assert written["test_accuracy"].tolist() == frame["test_accuracy"].tolist()


def test_a_report_is_read_back_equal(frame: pd.DataFrame, tmp_path: Path) -> None:
    # a digest may look like a number, a third has all its digits, and a metric may be missing from a line
    frame["phase"], frame.loc[3, "setting"] = "1e16", "0012345678901234"
    frame["test_loss"], frame.loc[2, "val_loss"] = [1 / (3 + row) for row in range(len(frame))], np.nan
    frame["seen"] = True
    write(frame, tmp_path / "first")
    again = results.read(tmp_path / "first" / "results.csv")
    columns = [column for column in frame if not column.startswith("run/")]
    pd.testing.assert_frame_equal(again[columns], frame[columns], check_exact=True)
    assert list(again) == [*columns, "run/ledger"]
    write(again, tmp_path / "second")
    assert (tmp_path / "second" / "report.md").read_text() == REPORT
    assert (tmp_path / "second" / "results.csv").read_bytes() == (tmp_path / "first" / "results.csv").read_bytes()


def test_the_report_of_a_results_file_goes_where_one_says(frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path)
    file = tmp_path / "results.csv"
    with pytest.raises(Refused, match=r"results.csv: say with --out where the report of a results file shall go"):
        publishing.publish([file])
    publishing.publish([file], tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text() == REPORT
    assert (tmp_path / "out" / "curve.png").stat().st_size > 0


HEAD = "study,arm,seed,round,rounds,density,train_steps,early_stop_step,test_accuracy,early_stop_test_accuracy"
WHOLE = {
    "study": "s", "arm": "imp", "seed": "0", "round": "0", "rounds": "2", "density": "1", "train_steps": "600",
    "early_stop_step": "300", "test_accuracy": "0.9", "early_stop_test_accuracy": "1",
}  # fmt: skip


def row(**changed: str) -> str:
    """A line of a results file, as a spreadsheet writes numbers."""
    return ",".join((WHOLE | changed).values())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,claim\nC1,x\n", r"line 2: no study, so it is no round's result"),
        (f"{HEAD}\ns,imp,0,0,2\n", "line 2 has not as many fields as the first line"),
        (f"{HEAD}\n{row()}\n{row(round='1')},9\n", "line 3 has not as many fields as the first line"),
        (f"{HEAD}\n{row(seed='zero')}\n", "line 2: no seed, so"),
        (f"{HEAD}\n{row(seed='-1')}\n", "line 2: no seed, so"),
        (f"{HEAD}\n{row(rounds='1.5')}\n", "line 2: no rounds, so"),
        (f"{HEAD}\n{row(study='')}\n", "line 2: no study, so"),
        (f"{HEAD}\n{row(study='../up')}\n", "line 2: no study, so"),
        (f"{HEAD}\n{row(arm='..')}\n", "line 2: no arm, so"),
        (f"{HEAD}\n{row(arm=chr(27) + '[2J')}\n", "line 2: no arm, so"),
        (f"{HEAD}\n{row(test_accuracy='nan')}\n", "line 2: test_accuracy is no finite number"),
        (f"{HEAD}\n{row(test_accuracy='96%')}\n", "line 2: test_accuracy is no finite number"),
        (f"{HEAD}\n{row(early_stop_step='inf')}\n", "line 2: early_stop_step is no finite number"),
        (f"{HEAD}\n{row(train_steps='9' * 400)}\n", "line 2: train_steps is no finite number"),
        (f"{HEAD}\n{row(density='7.5')}\n", "line 2: density=7.5 is not within 0 and 1"),
        (f"{HEAD.rpartition(',')[0]}\n{row().rpartition(',')[0]}\n", r"line 2: no early_stop_test_\*, so"),
        (f'{HEAD}\n"s,imp', "is no results.csv of a report: unexpected end of data"),
        (f"{HEAD},seed\n{row()},7\n", "line 1: the column seed is there twice; remove or rename one"),
        (f"{HEAD}\n{row(seed='1_0')}\n", "line 2: no seed, so"),
        (f"{HEAD}\n{row(density='0.5_0')}\n", "line 2: density is no finite number"),
        (f"{HEAD}\n{row(seed='٣')}\n", "line 2: no seed, so"),
        (f"{HEAD}\n{row()}\n".replace(",", ";"), "line 1: fields are separated by semicolons; a comma is needed"),
        (f"{HEAD}\n{row()}\n".replace(",", "\t"), "line 1: fields are separated by tabs; a comma is needed"),
        (
            f"{HEAD}\n{row()}\n{row(test_accuracy='0.8')}\n",
            "imp seed 0 has round 0 twice, with different results; remove",
        ),
    ],
)
def test_a_file_that_no_report_wrote(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(LedgerError, match=f"^{tmp_path}/results.csv.*{sentence}"):
        results.read(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text(f"{HEAD}\n")
    with pytest.raises(FileNotFoundError, match="no finished round under"):
        results.read(tmp_path / "results.csv")


def test_a_results_file_that_a_spreadsheet_wrote(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(f"\ufeff{HEAD}\n{row(seed='3.0')}\n", encoding="utf-8")
    [read] = results.read(tmp_path / "results.csv").to_dict("records")
    assert (read["study"], read["seed"], read["density"], read["test_accuracy"]) == ("s", 3, 1.0, 0.9)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"study": "another"}, "line 3 is of another cell than line 1; move the file away"),
        ({"study": "../../evil"}, "line 3: no study, so it is no round's result"),
        ({"layer_densities": []}, "line 3 is damaged: its layer_densities or run are none; move the file away"),
        ({"run": []}, "line 3 is damaged: its layer_densities or run are none; move the file away"),
        ({"phase": ["x"]}, "line 3: phase is neither a number nor a text"),
        ({"arm": 7}, "line 3: no arm, so it is no round's result"),
        ({"test_accuracy": math.nan}, "line 3: test_accuracy is no finite number"),
        ({"total_flops": 10**400}, "line 3: total_flops is neither a number nor a text"),
    ],
)
def test_a_ledger_with_a_line_that_is_none(changed: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = ledgers(tmp_path, {"imp": {0: ACCURACY["imp"][0]}}) / "imp" / "seed0" / "ledger.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], json.dumps(json.loads(lines[2]) | changed), ""]))
    with pytest.raises(LedgerError) as refused:
        results.read(tmp_path)
    assert str(refused.value) == f"{path}, {sentence}"


def test_a_ledger_nested_without_end_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(LedgerError, match="line 1 is damaged"):
        results.read(tmp_path)


def test_a_stray_ledger_is_reported_where_one_says(tmp_path: Path) -> None:
    lying = ledgers(tmp_path / "a", {"imp": {0: ACCURACY["imp"][0]}}) / "imp" / "seed0" / "ledger.jsonl"
    stray = tmp_path / "b" / "c" / "copied" / "ledger.jsonl"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(lying.read_bytes())
    with pytest.raises(Refused, match="say with --out where its report shall go"):
        publishing.publish([stray.parent])
    assert {path for path in tmp_path.rglob("*.*") if path.is_file()} == {lying, stray}
    publishing.publish([stray.parent], tmp_path / "out")
    assert (tmp_path / "out" / "report.md").exists()


def configured(tmp_path: Path, *overrides: str) -> dict[str, Path]:
    """Studies by a folder with their configuration."""
    cells = {}
    for job in cell_configs([*overrides, "scope=everywhere", "-m"]):
        cells[job.study] = folder = tmp_path / job.study
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(job.config)))
    return cells


CRITERIA = ("magnitude", "random")


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["optimizer.lr=0.1,0.2"], [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]),
        (["criterion=magnitude,random"], [[f"criterion._target_=lottery.criteria.{c}"] for c in CRITERIA]),
        (["scope.spare=[],['fc*']"], [["scope.spare=[]"], ["scope.spare=['fc*']"]]),
        (["stop.density=0.1,0.2"], [["stop.density=0.1"], ["stop.density=0.2"]]),
        (["stop.density=null,0.2"], [["no stop.density"], ["stop.density=0.2"]]),
        (["hardware.devices=1,2"], [["no devices"], ["devices=2"]]),
        (["criterion=random"], [[]]),
    ],
)  # fmt: skip
def test_studies_are_told_apart_by_what_their_names_are_made_of(
    overrides: list[str], found: list[list[str]], tmp_path: Path
) -> None:
    assert list(comparison.differing(configured(tmp_path, *overrides)).values()) == found


def test_where_data_lies_tells_no_studies_apart(tmp_path: Path) -> None:
    cells = configured(tmp_path, "data=mnist") | {"b": tmp_path / "b"}
    config = yaml.safe_load((next(iter(cells.values())) / "config.yaml").read_text())
    cells["b"].mkdir()
    (cells["b"] / "config.yaml").write_text(yaml.safe_dump(config | {"data": config["data"] | {"root": "elsewhere"}}))
    assert list(comparison.differing(cells).values()) == [[], []]


def test_a_study_that_nothing_is_known_of_tells_nothing_of_others(tmp_path: Path) -> None:
    first, second, third = cells = configured(tmp_path, "optimizer.lr=0.1,0.2,0.3")
    (cells[second] / "config.yaml").unlink()
    assert comparison.differing(cells) == {first: ["optimizer.lr=0.1"], second: None, third: ["optimizer.lr=0.3"]}
    (cells[third] / "config.yaml").write_text("damaged")
    assert comparison.differing(cells) == dict.fromkeys(cells)  # nothing to compare with


@pytest.mark.parametrize(
    ("one", "two", "names"),
    [
        (["criterion._target_=a.b.mine"], ["criterion._target_=c.theirs"], ["criterion=mine", "criterion=theirs"]),
        (["scope.spare=[a.b]", "criterion._target_=x.y"], ["no scope.spare", "criterion._target_=z"],
         ["scope.spare=[a.b] criterion=y", "no scope.spare criterion=z"]),
        (["criterion._target_=a.same"], ["criterion._target_=b.same"], ["one", "two"]),  # not told apart
        (["budget.steps=1"], [], ["one", "two"]),
        (["budget.steps=1"], None, ["one", "two"]),
        (["model._target_=" + "m" * 40], ["model._target_=n"], ["one", "two"]),  # too wide for a table
    ],
)  # fmt: skip
def test_studies_are_called_by_what_tells_them_apart(one: list[str], two: list[str] | None, names: list[str]) -> None:
    assert called({"one": one, "two": two}) == dict(zip(("one", "two"), names, strict=True))


def two_studies(tmp_path: Path, data: tuple[str, str] = ("d", "d")) -> list[Path]:
    """Folders of two studies that share the arm imp; the second, first in the alphabet, has its last seed alone."""
    other = {"imp": {2: (0.96, 0.97, 0.95)}, "one_shot": {2: (0.98, 0.97, 0.95)}}
    folders = [ledgers(tmp_path / "runs", ACCURACY, "two"), ledgers(tmp_path / "runs", other, "one")]
    for folder, digest in zip(folders, data, strict=True):
        for path in folder.rglob("ledger.jsonl"):
            lines = [json.loads(text) | {"data": digest} for text in path.read_text().splitlines()]
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folders


def compared(folder: Path) -> str:
    """The text of the one comparison in a folder, without the padding of its tables."""
    (path,) = folder.glob("comparison-*/comparison.md")
    return re.sub(" +", " ", path.read_text())


def test_studies_are_compared_with_the_one_that_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two, one = two_studies(tmp_path)
    publishing.publish([two, one])
    said, text = capsys.readouterr().out, compared(tmp_path / "runs")
    assert text.startswith("# Studies compared\n\n- two: settings unknown\n- one: settings unknown\n\n## imp\n")
    assert "## one_shot" not in text
    assert "Unfinished" not in text.partition("## imp")[2]  # a study need not have the seeds of another
    assert "comparison.md" in said
    assert len(said.splitlines()) < 24
    # the dense networks differ by 0.98 - 0.96, and of three seeds one is shared
    assert "| density | two | early stop | one | early stop | two - one |" in text
    assert "| 100.00% | 0.9400 ± 0.0994 | 310 ± 25 | 0.9600 (n = 1) | 320 (n = 1) | +0.0200 (n = 1) |" in text
    (picture,) = (tmp_path / "runs").glob("comparison-*/imp.png")
    assert picture.read_bytes().startswith(b"\x89PNG")

    publishing.publish([one, two], tmp_path / "out")
    assert "| one - two |" in compared(tmp_path / "out")
    publishing.publish([one], tmp_path / "alone")
    assert not list((tmp_path / "alone").glob("comparison*"))


def test_densities_of_a_row_stand_in_the_order_of_its_columns(tmp_path: Path) -> None:
    frames = {study: results.read(folder) for study, folder in zip(("b", "a"), two_studies(tmp_path), strict=True)}
    frames["b"].loc[frames["b"]["round"] == 1, "density"] = 0.8
    ((_, view),) = comparison.shared_arms(frames, {"b": "b", "a": "a"})
    assert "| 80.00% / 50.00% |" in report.accuracies(view)


def test_a_difference_without_a_seed_in_common_says_so(tmp_path: Path) -> None:
    frames = {study: results.read(folder) for study, folder in zip(("b", "a"), two_studies(tmp_path), strict=True)}
    frames["a"]["seed"] = 7
    ((_, view),) = comparison.shared_arms(frames, {"b": "b", "a": "a"})
    assert report.accuracies(view).count("no seed in common") == 3


def test_a_difference_of_fewer_seeds_says_how_many(frame: pd.DataFrame) -> None:
    ((_, view), _) = comparison.shared_arms({"a": frame, "b": frame[frame["seed"] < 2]}, {"a": "a", "b": "b"})
    assert re.sub(" +", " ", report.accuracies(view)).count("+0.0000 (n = 2, equal) |") == 2


def test_a_comparison_of_several_folders_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, one = two_studies(tmp_path)
    one.rename(tmp_path / "one")
    publishing.publish([two, tmp_path / "one"])
    assert "not written, since these studies lie in several folders; say with --out where to" in capsys.readouterr().out
    assert not list(tmp_path.rglob("comparison.*"))


def test_studies_of_other_data_or_headline_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publishing.publish(two_studies(tmp_path, data=("d", "e")))
    assert "not compared: two; no other study here is of its data and headline\n" in capsys.readouterr().out
    frame = results.read(tmp_path / "runs").drop(columns="data")
    assert comparison.comparable({"x": frame, "y": frame}) == [["x"], ["y"]]  # ledgers of old
    lossy = frame.assign(data="d").rename(columns={"early_stop_test_accuracy": "early_stop_test_loss"})
    assert comparison.comparable({"x": frame.assign(data="d"), "y": lossy, "z": lossy}) == [["x"], ["y", "z"]]
    lower = frame.assign(data="d", headline_better="lower")
    assert comparison.comparable({"x": frame.assign(data="d"), "y": lower, "z": lower}) == [["x"], ["y", "z"]]


def test_what_cannot_be_compared_or_written_is_said(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlike = {str(index): [f"optimizer.lr={index}"] for index in range(8)}
    publishing.compare(dict.fromkeys(unlike, frame), unlike, tmp_path / "many")
    capsys.readouterr()
    (table,) = tmp_path.glob("many/comparison-*/*")  # the page has the curves of so many
    assert table.name == "comparison.md"
    assert "| optimizer.lr=7 |" in re.sub(" +", " ", table.read_text())
    other = frame.assign(arm="other")
    publishing.compare({"0": frame, "1": other}, unlike, tmp_path)
    assert "not compared: 0, 1; they have no arm in common\n" in capsys.readouterr().out
    assert not list(tmp_path.glob("comparison*"))
    publishing.compare({"0": frame, "1": frame}, unlike, None)
    said = capsys.readouterr().out
    assert "these studies lie in several folders; say with --out where to\n" in said


def test_arms_of_two_studies_are_not_averaged(tmp_path: Path) -> None:
    for study in ("a", "b"):
        ledgers(tmp_path, ACCURACY, study)
    both = results.read(tmp_path)
    assert len(both) == 36
    for average in (
        report.render,
        intervals.summary,
        intervals.cost,
        lambda frame: write(frame, tmp_path / "out"),
        lambda frame: figure.draw(frame, tmp_path / "curve.png"),
        intervals.matching,
        lambda frame: intervals.sparsest_match(frame, "imp"),
    ):
        with pytest.raises(LedgerError, match=r"^these are results of 2 studies, a, b; give those of one alone$"):
            average(both)


def test_a_round_of_arms_with_unlike_densities_names_both(frame: pd.DataFrame) -> None:
    frame.loc[(frame["arm"] == "imp") & (frame["round"] == 1), "density"] = 0.4
    assert "| 40.00% / 50.00% | 0.9500 ± 0.0745 |" in report.render(frame)


COST = """
Training cost, mean over seeds: a round alone, and with all training that was needed to find its ticket.
FLOPs are in proportion to each layer's density; were it dense: of the same steps with every weight.

|           arm | density | steps |   FLOPs | were it dense | FLOPs with finding | were it all dense |
|--------------:|--------:|------:|--------:|--------------:|-------------------:|------------------:|
|           imp | 100.00% |   600 | 2.00e12 |       2.00e12 |            2.00e12 |           2.00e12 |
|           imp |  50.00% |   600 | 1.00e12 |       2.00e12 |            3.00e12 |           4.00e12 |
|           imp |  12.50% |   600 | 2.50e11 |       2.00e12 |            3.25e12 |           6.00e12 |
| random_reinit | 100.00% |   600 | 2.00e12 |       2.00e12 |            2.00e12 |           2.00e12 |
|"""


def test_the_cost_of_training_is_a_second_table(frame: pd.DataFrame) -> None:
    dense = 1e12 * (frame["seed"] + 1)  # a mean of 2e12 over the seeds 0, 1, 2
    frame["train_flops"], frame["train_flops_dense"] = dense * frame["density"], dense
    frame["total_flops"] = frame.groupby(["arm", "seed"])["train_flops"].cumsum()
    assert report.render(frame) == REPORT  # one of the columns is missing
    frame["total_flops_dense"] = frame.groupby(["arm", "seed"])["train_flops_dense"].cumsum()
    assert report.render(frame).startswith(REPORT + COST)


def test_what_analyses_found_is_a_table(frame: pd.DataFrame) -> None:
    frame["overlap/jaccard"] = np.where(frame["round"] == 0, np.nan, frame["seed"] / 10)
    frame["overlap/steps"] = 3000.0
    frame.loc[(frame["arm"] == "imp") & (frame["round"] == 2) & (frame["seed"] == 1), "overlap/jaccard"] = np.nan
    assert report.render(frame) == REPORT + ANALYSES


ANALYSES = """
What analyses found (mean and 95 % interval over seeds; of accuracy, 0.01 is one point):

|           arm | density | n |         overlap/jaccard |        overlap/steps |
|--------------:|--------:|--:|------------------------:|---------------------:|
|           imp | 100.00% | 3 |                       - | 3,000 (n = 3, equal) |
|           imp |  50.00% | 3 |         0.1000 ± 0.2484 | 3,000 (n = 3, equal) |
|           imp |  12.50% | 3 | 0.1000 ± 1.2706 (n = 2) | 3,000 (n = 3, equal) |
| random_reinit | 100.00% | 3 |                       - | 3,000 (n = 3, equal) |
| random_reinit |  50.00% | 3 |         0.1000 ± 0.2484 | 3,000 (n = 3, equal) |
| random_reinit |  12.50% | 3 |         0.1000 ± 0.2484 | 3,000 (n = 3, equal) |
"""


def test_small_numbers_of_an_analysis_keep_their_digits(frame: pd.DataFrame) -> None:
    """A barrier of a loss may be of any scale: with four decimals all of it would read 0.0000."""
    frame["connectivity/barrier"] = (frame["seed"] + 1) * 1e-6
    assert "| 3 | 0.000002000 ± 0.000002484 |" in re.sub(" +", " ", report.analyses(frame))
    frame["connectivity/barrier"] = 12 + (frame["seed"] + 1) / 100
    assert "| 3 | 12.0200 ± 0.0248 |" in re.sub(" +", " ", report.analyses(frame))


def test_a_number_that_not_every_seed_has_says_so(tmp_path: Path) -> None:
    played = {"imp": {**ACCURACY["imp"], 1: (0.94,)}, "random_reinit": ACCURACY["random_reinit"]}
    text = report.accuracies(results.read(ledgers(tmp_path, played)))
    [row] = [row for row in text.splitlines() if row.startswith("|  50.00%")]
    ticket, _, control, _, apart = (cell.strip() for cell in row.strip("| ").split(" | ")[1:])
    assert [cell.endswith("(n = 2)") for cell in (ticket, control, apart)] == [True, False, True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "densities",
    [(1.0,), (1.0, 0.95, 0.9), (1.0, 0.5, 0.25), (1.0, 0.01, 0.0001)],
    ids=["dense", "near", "usual", "thin"],
)
def test_every_range_of_densities_has_ticks(densities: tuple[float, ...]) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    drawing.band(axes, 100 * pd.Series(densities), pd.Series(densities), pd.Series(densities) / 9, 0, "imp")
    drawing.densities(axes, min(densities))
    high, low = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(shown) >= min(3, len(densities))
    assert max(shown) == pytest.approx(100)
    assert min(shown) <= 120 * min(densities)


@pytest.mark.parametrize("name", ["short", "long" * 40])
def test_names_leave_room_for_the_curves(name: str, tmp_path: Path) -> None:
    played = {f"{arm}{name}": ACCURACY["imp"] for arm in "abcdefghi"}
    for arms in (2, 9):  # a figure without room for its axes is a warning, which is an error here
        some = dict(list(played.items())[:arms])
        frame = results.read(
            ledgers(tmp_path / str(arms), {arm[:150]: seeds for arm, seeds in some.items()}, "s" * 120)
        )
        figure.draw(frame, tmp_path / "curve.png")


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_figure_is_a_picture(seeds: tuple[int, ...], tmp_path: Path) -> None:
    played = {arm: {seed: scores[seed] for seed in seeds} for arm, scores in ACCURACY.items()}
    figure.draw(results.read(ledgers(tmp_path, played)), tmp_path / "curve.png")
    content = (tmp_path / "curve.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1024, 960)
    assert 10_000 < len(content) < 300_000


def test_an_arm_looks_the_same_in_every_figure() -> None:
    first = drawing.looked(["imp", "random_reinit", "mine"])
    second = drawing.looked(["imp,rewind=5it", "mine", "random_mask", "random_reinit", "theirs"])
    assert second["random_reinit"] == first["random_reinit"]
    assert second["imp,rewind=5it"] == first["imp"]
    assert second["mine"] == first["mine"]  # though no table has it
    for names in ([*second], ["imp", "imp,rewind=5it", "finetune", "finetune_parent", "a", "b", "c"]):
        looks = drawing.looked(names)
        assert list(looks) == names
        assert len({*looks.values()}) == len(names)
    many = drawing.looked([f"arm{number}" for number in range(20)])
    assert (len(many), len({*many.values()})) == (20, 14)


def connected(frame: pd.DataFrame, rewound: int) -> pd.DataFrame:
    """The frame with the barriers that two copies from that step on might have."""
    label = f",rewind={rewound}it" if rewound else ""
    barrier = (frame["round"] + frame["seed"]) / (100 if rewound else 10)
    columns = {figure.BARRIER: barrier, "connectivity/steps_together": rewound}
    return frame.assign(arm=frame["arm"] + label, **columns)


def test_barriers_by_rewinding_step(frame: pd.DataFrame, tmp_path: Path) -> None:
    both = pd.concat([connected(frame, 0), connected(frame, 200)])
    numbers = figure.barriers(both).set_index(["line", "k"])
    lines = [f"{arm} at {density}" for arm in ("imp", "random_reinit") for density in ("12.5 %", "50 %")]
    assert sorted(set(numbers.index)) == [(line, k) for line in sorted(["dense", *lines]) for k in (0, 200)]
    assert set(numbers["n"]) == {3}  # the dense network counts once, not for every arm
    assert numbers.loc[("dense", 0), "mean"] == pytest.approx(0.1)
    assert numbers.loc[("imp at 12.5 %", 200), ["mean", "half"]].tolist() == pytest.approx(
        [0.03, half([0.02, 0.03, 0.04])]
    )
    figure.draw_barriers(both, tmp_path / "barrier.png")
    assert (tmp_path / "barrier.png").read_bytes()[:4] == b"\x89PNG"


def test_barriers_of_one_step_are_shown_by_density(frame: pd.DataFrame, tmp_path: Path) -> None:
    numbers = figure.barriers(connected(frame, 0)).set_index(["line", "density"])
    assert sorted(set(numbers.index)) == [(arm, at) for arm in ("imp", "random_reinit") for at in sorted(DENSITY)]
    assert numbers.loc[("imp", 0.5), "mean"] == pytest.approx(0.2)
    write(connected(frame, 0), tmp_path)
    assert (tmp_path / "barrier.png").read_bytes()[:4] == b"\x89PNG"


REPORT = """\
# demo-digits-12345678

- imp: n = 3 (seeds 0, 1, 2)
- random_reinit: n = 3 (seeds 0, 1, 2)

Test accuracy (mean and 95 % interval over seeds) and early-stopping step:

| density |             imp | early stop |   random_reinit | early stop | imp - random_reinit |
|--------:|----------------:|-----------:|----------------:|-----------:|--------------------:|
| 100.00% | 0.9400 ± 0.0994 |   310 ± 25 | 0.9400 ± 0.0994 |   310 ± 25 |                   - |
|  50.00% | 0.9500 ± 0.0745 |   160 ± 25 | 0.8800 ± 0.0497 |   160 ± 25 |    +0.0700 ± 0.0657 |
|  12.50% | 0.8600 ± 0.0896 |   210 ± 25 | 0.7200 ± 0.0497 |   210 ± 25 |    +0.1400 ± 0.0657 |

Sparsest density that matches dense (margin 0.5 points, paired over seeds):

- imp: none shown
- random_reinit: none shown
"""
