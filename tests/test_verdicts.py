"""Claims of a paper: reading, measuring within seeds, judging by the interval, and commits before the results."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.commands import main as cli
from lottery.foundations.errors import Refused
from lottery.reports import folder as report
from lottery.reports import results
from lottery.reports.claims import COLUMNS, Bound, Claim, Point, read_claims
from lottery.reports.statistics import judge
from lottery.reports.verdicts import estimate, judged, quantity_of, table, verdicts
from lottery.store.ledger import LedgerError
from tests.test_results import ACCURACY, ledgers

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["does not hold", "undecided", "holds"]
HEAD = ",".join(COLUMNS)
GOOD = 'C1,a claim,small,"test_accuracy: imp,rewind=5it@0.5 - imp@1",-0.005,>=,section 2,'


def played(curves: dict[str, dict[float, list[float]]], column: str = "test_accuracy") -> pd.DataFrame:
    """A frame from arm -> density -> values of seeds 0, 1, ...; the seed is left out where the value is NaN."""
    return pd.DataFrame(
        [
            {"study": "s", "arm": arm, "seed": seed, "round": index, "density": density, column: value}
            for arm, curve in curves.items()
            for index, (density, values) in enumerate(curve.items())
            for seed, value in enumerate(values)
            if not math.isnan(value)
        ]
    )


def claim(quantity: str, value: float = 0.0, bound: Bound = ">=", not_run: str = "") -> Claim:
    column, _, points = quantity.partition(": ")
    parts = points.split(" ")
    sides = [Point(arm, float(density)) for arm, density in (part.split("@") for part in parts[::2])]
    operator = parts[1] if len(parts) > 1 else ""
    return Claim("C1", "a claim", "small", column, tuple(sides), operator, value, bound, "section 2", not_run)


def verdict(of: Claim, frame: pd.DataFrame) -> pd.Series:
    (row,) = (row for _, row in judged([of], {"small": frame}).iterrows())
    return row


# --- reading


def written(folder: Path, *lines: str) -> Path:
    path = folder / "expected.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_claim_is_read_whole(tmp_path: Path) -> None:
    first, second = read_claims(
        written(tmp_path, HEAD, GOOD, "C2,another,mnist,early_stop_step: imp@0.211,1.5e3,20,figure 1,no files")
    )
    assert first == Claim(
        "C1", "a claim", "small", "test_accuracy", (Point("imp,rewind=5it", 0.5), Point("imp", 1.0)), "-",
        -0.005, ">=", "section 2", "",
    )  # fmt: skip
    assert first.claimed == ">= -0.005"
    assert (second.points, second.operator, second.not_run) == ((Point("imp", 0.211),), "", "no files")
    assert second.claimed == "1500 ± 20"


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/expected.csv")), ids=lambda path: path.parent.name)
def test_committed_claims_are_read(path: Path) -> None:
    assert read_claims(path)


def changed(column: str, text: str) -> list[str]:
    fields = dict(zip(COLUMNS, ["C1", "a", "small", "acc: imp@0.5 - imp@1", "0", ">=", "section 2", ""], strict=True))
    return [HEAD, ",".join({**fields, column: text}.values())]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([HEAD], "line 2: there is no claim"),
        ([HEAD.replace("bound,", "")], "line 1: the columns are to be id,claim,results,quantity,value,bound,where,"),
        ([HEAD, "C1,a claim,small"], "line 2 has not the 8 fields of line 1"),
        ([HEAD, GOOD, GOOD.replace("C1", "C2") + ",more"], "line 3 has not the 8 fields of line 1"),
        ([HEAD, GOOD, GOOD], "line 3, id: C1 stands there twice"),
        ([HEAD, '"C1'], "is no CSV file in UTF-8: unexpected end of data"),
        (changed("id", " "), "line 2, id: it is empty"),
        (changed("claim", ""), "line 2, claim: it is empty"),
        (changed("where", ""), "line 2, where: it is empty"),
        (changed("results", "small.csv"), "line 2, results: small.csv is not the bare name"),
        (changed("results", "../small"), "line 2, results: ../small is not the bare name"),
        (changed("quantity", "imp@0.5"), "line 2, quantity: imp@0.5 is not like"),
        (changed("quantity", "acc: imp"), "line 2, quantity: acc: imp is not like"),
        (changed("quantity", "acc: imp@0.5 + imp@1"), "line 2, quantity: acc: imp@0.5 \\+ imp@1 is not like"),
        (changed("quantity", "acc: imp@0.5 - "), "line 2, quantity: acc: imp@0.5 - is not like"),
        (changed("quantity", "acc: imp@half"), "line 2, quantity: half is no finite number"),
        (changed("quantity", "acc: imp@1 / imp@21"), "line 2, quantity: the density of imp@21 is not within 0 and 1"),
        (changed("quantity", "acc: imp@nan"), "line 2, quantity: nan is no finite number"),
        (changed("value", ""), "line 2, value: it is empty"),
        (changed("value", "38 %"), "line 2, value: 38 % is no finite number$"),
        (changed("value", "inf"), "line 2, value: inf is no finite number$"),
        (changed("bound", ">"), "line 2, bound: > is no finite number, nor >= or <=$"),
        (changed("bound", "-0.1"), "line 2, bound: a tolerance is not negative, as -0.1 is$"),
    ],
)
def test_a_malformed_file_is_one_sentence(lines: list[str], sentence: str, tmp_path: Path) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(Refused, match=f"^{path}(, | ){sentence.removeprefix(', ')}"):
        read_claims(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "expected.csv").write_bytes(b"\xff\x00")
    with pytest.raises(Refused, match="is no CSV file in UTF-8"):
        read_claims(tmp_path / "expected.csv")


# --- measuring


def test_a_difference_is_taken_within_seeds_and_has_the_interval_of_a_hand() -> None:
    # seeds differ by 0.4, the arms by 0.02 ± 0.01: t is 4.302653 for three seeds
    frame = played({"imp": {1: [0.5, 0.9, 0.7], 0.211: [0.51, 0.92, 0.73]}})
    of = claim("test_accuracy: imp@0.21 - imp@1")
    assert quantity_of(of, frame).round(12).to_dict() == {0: 0.01, 1: 0.02, 2: 0.03}
    half = 4.302652730 * 0.01 / math.sqrt(3)
    assert estimate(of, quantity_of(of, frame)) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    row = verdict(of, frame)
    assert (row["measured"], row["n"], row["verdict"]) == ("0.020 [-0.005, 0.045]", 3, "undecided")


def test_one_point_alone_is_the_mean_over_its_seeds() -> None:
    frame = played({"imp": {1: [0.97, 0.98, 0.99]}})
    row = verdict(claim("test_accuracy: imp@1", 0.982, 0.003), frame)
    assert (row["claimed"], row["measured"], row["verdict"]) == ("0.982 ± 0.003", "0.980 [0.955, 1.005]", "undecided")


def test_a_ratio_is_the_geometric_mean_of_the_seeds_ratios() -> None:
    # ratios 1/4, 1/2, 1 within seeds: logarithms -2 ln 2, -ln 2, 0
    frame = played({"imp": {1: [800.0, 400.0, 100.0], 0.5: [200.0, 200.0, 100.0]}}, "early_stop_step")
    of, back = claim("early_stop_step: imp@0.5 / imp@1"), claim("early_stop_step: imp@1 / imp@0.5")
    width = math.exp(4.302652730 * math.log(2) / math.sqrt(3))
    assert estimate(of, quantity_of(of, frame)) == pytest.approx((0.5, 0.5 / width, 0.5 * width))
    mean, low, high = estimate(back, quantity_of(back, frame))
    assert (1 / mean, 1 / high, 1 / low) == pytest.approx(estimate(of, quantity_of(of, frame)))
    assert verdict(of, frame)["measured"] == "0.50 [0.09, 2.80]"


def test_only_seeds_with_both_sides_count() -> None:
    nan = math.nan
    frame = played({"imp": {1: [0.5, 0.9, 0.7, 0.6], 0.5: [0.51, nan, 0.72, 0.63]}})
    assert list(quantity_of(claim("test_accuracy: imp@0.5 - imp@1"), frame).index) == [0, 2, 3]
    assert len(quantity_of(claim("test_accuracy: imp@1"), frame)) == 4
    frame.loc[(frame["seed"] == 3) & (frame["round"] == 0), "test_accuracy"] = nan  # a metric that came later
    assert list(quantity_of(claim("test_accuracy: imp@0.5 - imp@1"), frame).index) == [0, 2]


def test_survivors_alone_decide_nothing() -> None:
    scores = {1: [0.90, 0.91, 0.90, 0.91], 0.5: [0.95, 0.96, 0.95, 0.97]}
    of = claim("test_accuracy: imp@0.5 - imp@1")
    assert verdict(of, played({"imp": scores}))["verdict"] == "holds"
    row = verdict(of, played({"imp": {**scores, 0.5: [0.95, 0.96, math.nan, 0.97]}}))
    assert (row["verdict"], row["reason"], row["n"]) == ("undecided", "1 of 4 seeds do not have it", 3)


@pytest.mark.parametrize(
    ("density", "found"),
    [(0.5, 0.5), (0.514, 0.5), (0.486, 0.5), (0.517, None), (0.02, 0.0199), (0.0202, 0.0203), (0.98, None), (1, 1.0)],
)
def test_the_nearest_round_within_three_per_cent(density: float, found: float | None) -> None:
    frame = played({"imp": {d: [d, d] for d in (1, 0.5, 0.0203, 0.0199)}})
    of = claim(f"test_accuracy: imp@{density}")
    if found is None:
        row = verdict(of, frame)
        assert (row["verdict"], row["reason"]) == ("not run here", f"the results have no round of imp@{density}")
    else:
        assert set(quantity_of(of, frame)) == {found}


def test_one_is_round_zero_alone() -> None:
    frame = played({"imp": {1.0: [0.9, 0.9], 0.999: [0.8, 0.8]}})
    assert set(quantity_of(claim("test_accuracy: imp@1"), frame)) == {0.9}
    assert set(quantity_of(claim("test_accuracy: imp@0.999"), frame)) == {0.8}
    assert verdict(claim("test_accuracy: imp@1"), frame[frame["round"] > 0])["verdict"] == "not run here"


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        ("test_accuracy: one_shot@0.5", "the results have no arm one_shot"),
        ("test_accuracy: imp@0.3", "the results have no round of imp@0.3"),
        ("test_accuracy: imp@0", "the results have no round of imp@0"),
        ("barrier: imp@0.5", "the results have no numbers barrier"),
        ("study: imp@0.5", "the results have no numbers study"),
        ("test_accuracy: imp@0.5 - other@0.5", "no seed has test_accuracy at imp@0.5 and other@0.5"),
    ],
)
def test_what_was_not_run_says_why(quantity: str, reason: str) -> None:
    nan = math.nan
    frame = played({"imp": {1: [0.9, 0.9], 0.5: [0.9, 0.9]}, "other": {1: [nan, nan, 0.9], 0.5: [nan, nan, 0.9]}})
    row = verdict(claim(quantity), frame)
    assert (row["verdict"], row["reason"], row["measured"], row["n"]) == ("not run here", reason, "-", 0)
    assert verdict(claim(quantity, not_run="no files"), frame)["reason"] == "no files"


def test_results_that_are_there_are_judged_whatever_not_run_says() -> None:
    of = claim("test_accuracy: imp@1", 0.8, not_run="no files")
    assert verdict(of, played({"imp": {1: [0.9, 0.91]}}))["verdict"] == "holds"
    assert judged([of], {})["reason"].tolist() == ["no files"]
    assert judged([claim("test_accuracy: imp@1")], {})["reason"].tolist() == ["small.csv is not there"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, math.inf], [1.0, 1.0]),
        ([1.0, 2.0], [1.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([1.0, -2.0], [1.0, 1.0]),
    ],
)
def test_ratios_without_a_meaning_decide_nothing(first: list[float], second: list[float]) -> None:
    frame = played({"imp": {1: second, 0.5: first}})
    row = verdict(claim("test_accuracy: imp@0.5 / imp@1", -10), frame)
    assert (row["measured"], row["verdict"]) == ("no finite number", "undecided")


@pytest.mark.parametrize("bound", [">=", "<=", 0.0])
def test_seeds_that_agree_on_the_bound_are_within_it(bound: Bound) -> None:
    frame = played({"imp": {1: [1e10] * 3, 0.5: [3e10] * 3}}, "total_flops")
    row = verdict(claim("total_flops: imp@0.5 / imp@1", 3, bound), frame)
    assert (row["measured"], row["verdict"]) == ("3.000 [3.000, 3.000]", "holds")
    frame = played({"imp": {1: [0.2] * 5}})
    assert verdict(claim("test_accuracy: imp@1", 0.2, bound), frame)["verdict"] == "holds"


def test_a_few_scores_that_agree_by_chance_decide_nothing() -> None:
    row = verdict(claim("test_accuracy: imp@1", 0.1), played({"imp": {1: [0.2] * 3}}))
    assert (row["measured"], row["verdict"]) == ("0.2000 (n = 3, equal)", "undecided")


def test_a_ratio_beyond_all_numbers_is_shown() -> None:
    frame = played({"imp": {1: [1e-4, 1.1e-4], 0.5: [1e304, 1e304]}})
    assert verdict(claim("test_accuracy: imp@0.5 / imp@1"), frame)["verdict"] in ("holds", "undecided")


def test_two_studies_are_not_averaged() -> None:
    frame = played({"imp": {1: [0.9, 0.9]}})
    with pytest.raises(LedgerError, match="results of 2 studies, s, t;"):
        quantity_of(claim("test_accuracy: imp@1"), pd.concat([frame, frame.assign(study="t")]))


# --- judging


@pytest.mark.parametrize(
    ("interval", "value", "bound", "expected"),
    [
        ((0.1, 0.3), 0.1, ">=", "holds"),
        ((0.1, 0.3), 0.2, ">=", "undecided"),
        ((0.1, 0.3), 0.3, ">=", "undecided"),
        ((0.1, 0.3), 0.31, ">=", "does not hold"),
        ((0.1, 0.3), 0.3, "<=", "holds"),
        ((0.1, 0.3), 0.29, "<=", "undecided"),
        ((0.1, 0.3), 0.09, "<=", "does not hold"),
        ((-1.0, 1.0), 0.0, 1.0, "holds"),
        ((-1.0, 1.1), 0.0, 1.0, "undecided"),
        ((-9.0, 9.0), 0.0, 1.0, "undecided"),
        ((1.1, 9.0), 0.0, 1.0, "does not hold"),
        ((-9.0, -1.1), 0.0, 1.0, "does not hold"),
        ((2.0, 2.0), 2.0, 0.0, "holds"),
        ((-math.inf, math.inf), 0.0, ">=", "undecided"),
        ((-math.inf, math.inf), 0.0, 1e9, "undecided"),
        ((math.inf, math.inf), 0.0, ">=", "undecided"),
        ((-math.inf, -math.inf), 0.0, "<=", "undecided"),
        ((math.nan, math.nan), 0.0, "<=", "undecided"),
        ((0.0, math.nan), 0.0, ">=", "undecided"),
        ((math.nan, -1.0), 0.0, ">=", "undecided"),
    ],
)
def test_judge(interval: tuple[float, float], value: float, bound: Bound, expected: str) -> None:
    assert judge(interval, value, bound) == expected


whole = st.integers(-50, 50).map(float)
bounds = st.one_of(st.sampled_from([">=", "<="]), st.integers(0, 50).map(float))


@settings(deadline=None)
@given(low=whole, width=st.integers(0, 60), value=whole, bound=bounds)
def test_a_verdict_is_about_every_number_of_the_interval(low: float, width: int, value: float, bound: Bound) -> None:
    def claimed(number: float) -> bool:
        return {">=": number >= value, "<=": number <= value}.get(str(bound), abs(number - value) <= float_of(bound))

    inside = [claimed(low + step / 2) for step in range(2 * width + 1)]
    expected = "holds" if all(inside) else "undecided" if any(inside) else "does not hold"
    assert judge((low, low + width), value, bound) == expected


def float_of(bound: Bound) -> float:
    return bound if isinstance(bound, float) else math.nan


@settings(deadline=None)
@given(low=whole, width=st.integers(0, 60), value=whole, bound=bounds, steps=st.lists(st.integers(0, 9), max_size=30))
def test_a_verdict_changes_in_order(low: float, width: int, value: float, bound: Bound, steps: list[int]) -> None:
    """Moving results towards the claim only improves a verdict; moving them out of a tolerance only worsens it."""
    sign = {">=": 1, "<=": -1}.get(str(bound), -1)
    if isinstance(bound, float):
        low = max(low, value - width / 2)  # its middle is on the upper side, from where it moves up
    seen, moved = [], 0.0
    for step in steps:
        moved += step
        shift = moved * (1 if isinstance(bound, float) else sign)
        seen.append(ORDER.index(judge((low + shift, low + shift + width), value, bound)))
    assert seen == sorted(seen, reverse=isinstance(bound, float))


@settings(deadline=None)
@given(low=whole, width=st.integers(0, 60), value=whole)
def test_the_mirrored_claim_has_the_same_verdict(low: float, width: int, value: float) -> None:
    assert judge((low, low + width), value, ">=") == judge((-low - width, -low), -value, "<=")


def test_a_false_curve_does_not_hold_and_a_thin_one_is_undecided() -> None:
    of = claim("test_accuracy: imp@0.036 - imp@1", -0.005)
    dense, apart = [0.980, 0.981, 0.982, 0.983, 0.984], [0.001, -0.001, 0.002, 0.000, 0.001]
    true = played({"imp": {1: dense, 0.036: [d + a for d, a in zip(dense, apart, strict=True)]}})
    false = played({"imp": {1: dense, 0.036: [d + a - 0.03 for d, a in zip(dense, apart, strict=True)]}})
    assert verdict(of, true)["verdict"] == "holds"
    assert verdict(of, false)["verdict"] == "does not hold"
    for seeds in ([0, 1], [1, 2], [2]):  # t is 12.7 for two seeds; one has no interval at all
        row = verdict(of, true[true["seed"].isin(seeds)])
        assert (row["verdict"], row["n"]) == ("undecided", len(seeds))
    assert row["measured"] == "0.002000 (n = 1)"


def test_one_seed_decides_nothing_though_no_ratio_is_negative() -> None:
    frame = played({"imp": {1: [2.0], 0.5: [1.0]}})
    assert verdict(claim("test_accuracy: imp@0.5 / imp@1", 0.0), frame)["verdict"] == "undecided"


def test_large_numbers_are_short() -> None:
    frame = played({"imp": {1: [1.0e15, 1.2e15]}}, "total_flops")
    assert verdict(claim("total_flops: imp@1"), frame)["measured"] == "1.100e+15 [-1.706e+14, 2.371e+15]"


# --- a folder, and the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Claims with the results of `ACCURACY` beside them."""
    lines = [
        "A,imp wins,small,test_accuracy: imp@0.5 - random_reinit@0.5,0,>=,a|b,",
        "B,twin,small,test_accuracy: random_reinit@0.125 - imp@1,-0.005,>=,c,",
        "C,another data set,large,test_accuracy: imp@0.5,0.9,0.01,d,too large",
    ]
    written(tmp_path, HEAD, *lines)
    report.write(results.read(ledgers(tmp_path / "runs", ACCURACY)), tmp_path)
    (tmp_path / "results.csv").rename(tmp_path / "small.csv")
    return tmp_path


TABLE = """\
| id | claim | quantity | claimed | measured [95 % interval] | n | verdict | source |
| --- | --- | --- | --- | --- | --- | --- | --- |
| A | imp wins | test_accuracy: imp@0.5 - random_reinit@0.5 | >= 0 | 0.070 [0.004, 0.136] | 3 | holds | a\\|b |
| B | twin | test_accuracy: random_reinit@0.125 - imp@1 | >= -0.005 | -0.220 [-0.270, -0.170] | 3 | does not hold | c |
| C | another data set | test_accuracy: imp@0.5 | 0.9 ± 0.01 | - | 0 | not run here: too large | d |
"""


def test_a_folder_is_judged_by_the_results_beside_its_claims(folder: Path) -> None:
    frame = verdicts(folder)
    assert frame["verdict"].tolist() == ["holds", "does not hold", "not run here"]
    assert table(frame) == TABLE
    assert table(verdicts(folder / "expected.csv")) == TABLE


def test_runs_of_one_s_own_are_judged_alone(folder: Path) -> None:
    assert table(verdicts(folder, {"small": [folder / "runs"]})) == "".join(TABLE.splitlines(keepends=True)[:4])
    assert verdicts(folder, {"large": [folder / "small.csv"]})["measured"].tolist() == ["0.950 [0.875, 1.025]"]
    with pytest.raises(Refused, match="has no claim about smal; did you mean small"):
        verdicts(folder, {"smal": [folder / "runs"]})


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """`lottery verdict` in this process: what it says, on whichever stream."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a launch in this process sets it
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["lottery", "verdict", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == code
        out, err = capsys.readouterr()
        assert not (err if code == 0 else out)
        return out + err

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_command(folder: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert command(".") == TABLE
    (folder / "small.csv").rename(folder / "moved.csv")
    said = command("expected.csv", "small=runs/*", "large=moved.csv").splitlines()
    assert said[:4] == TABLE.splitlines()[:4]
    assert said[4:] == [
        "| C | another data set | test_accuracy: imp@0.5 | 0.9 ± 0.01 | 0.950 [0.875, 1.025] | 3 | undecided | d |"
    ]
    assert command("..", code=1).startswith(
        "lottery: ../expected.csv: there is no such file of claims; there are some in "
    )
    assert f"claims; did you mean {folder.name}" in command(f"../{folder.name}s", code=1)
    for word, sentence in (
        ("small", "small is not NAME=RUNS, like fashion_mnist=runs/fc2019_lenet-fashion_mnist-0a1b2c3d"),
        ("small=none-*", "none-*: no such folder or results file"),
    ):
        assert command("expected.csv", word, code=1) == f"lottery: {sentence}\n"


# --- claims came first


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("there is no git history here")
    return done.stdout.strip()


def added(path: Path) -> int | None:
    """When a file was first committed, by its author: a rebase gives all commits the time of its own."""
    times = git("log", "--diff-filter=A", "--format=%at", "--", str(path.relative_to(ROOT))).split()
    return min(map(int, times), default=None)


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/expected.csv")), ids=lambda path: path.parent.name)
def test_claims_were_committed_before_the_results_that_judge_them(path: Path) -> None:
    try:
        shallow = git("rev-parse", "--is-shallow-repository") == "true"
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if shallow or Path(git("rev-parse", "--show-toplevel")) != ROOT:
        pytest.skip("the history of this folder is not here")
    claims = added(path)
    for name in {claim.results for claim in read_claims(path)}:
        made = added(path.with_name(f"{name}.csv"))
        if made is not None:
            assert claims is not None, f"{name}.csv is committed, {path.name} is not"
            assert claims < made, f"{name}.csv was committed before the claims that it is to judge"
