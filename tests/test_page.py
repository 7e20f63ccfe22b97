"""The page of a report: what it is made of, and how it behaves in a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from scipy import stats

from lottery.commands import report as publishing
from lottery.config.compose import cell_configs
from lottery.config.groups import options
from lottery.reports import answers, intervals, results
from lottery.reports.answers import answer
from lottery.reports.page import files
from lottery.reports.page.beside import beside, claims, curves, hosts, study_command
from lottery.reports.page.data import across, numbers, study_data, together
from tests.browser import CHROMIUM, LAPTOP, PHONE, Browser
from tests.test_results import ACCURACY, STUDY, half, ledgers

AXE = Path(os.environ.get("AXE", "axe.min.js"))
"""Of npm's package axe-core, which is nobody's dependency here."""
NAMES = {STUDY: STUDY}


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return results.read(ledgers(tmp_path / "runs", ACCURACY))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without the plotting library, which takes seconds to bundle."""
    monkeypatch.setattr(files, "library", lambda: "")


def within(page: Path) -> dict[str, Any]:
    """The data of a page, as its script reads them."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_numbers_of_the_page_are_those_of_the_frame(frame: pd.DataFrame) -> None:
    (ticket, control) = study_data(frame, STUDY)["arms"]
    assert (ticket["name"], control["name"]) == ("imp", "random_reinit")
    scores = ticket["columns"]["test_accuracy"]
    assert scores["seeds"] == [list(ACCURACY["imp"][seed]) for seed in (0, 1, 2)]
    by_round = list(zip(*ACCURACY["imp"].values(), strict=True))
    assert scores["mean"] == pytest.approx([sum(scores) / 3 for scores in by_round])
    assert scores["half"] == pytest.approx([half(list(scores)) for scores in by_round], rel=1e-3)
    assert ticket["columns"]["density"] == {"mean": [1, 0.5, 0.125]}  # the same for all seeds
    assert ticket["layers"] == {"fc.weight": [1, 0.5, 0.125]}
    assert ticket["match"] == ["yes", "undecided", "no"]


def test_an_overview_s_rows_tell_studies_apart(frame: pd.DataFrame) -> None:
    """Names are cut in their middle, unless that makes them equal."""
    names = {study: f"criterion={study} optimizer.lr=0.1" for study in ("magnitude", "random")}
    every = {study: frame.assign(study=study) for study in names}
    for study, name in names.items():
        assert answers.overview(every, names).count(f" {name} |") == 2
        assert f" {name[:9]}…{name[-10:]} |" in answers.overview({study: frame}, {study: name})


def test_the_page_says_which_arm_won_what_arms_are_and_how_to_make_it_again(
    frame: pd.DataFrame, tmp_path: Path, small: None
) -> None:
    apart = {"imp": {seed: (0.9, 0.9 + seed / 1000, 0.8) for seed in range(4)}}
    apart["random_reinit"] = {seed: (0.9, 0.8, 0.8 + seed / 1000) for seed in range(4)}
    found = results.read(ledgers(tmp_path / "apart", apart))
    how = "(paired over seeds; shown is p < 0.05 after Holm's correction)."
    won = f"imp is better than random_reinit at 1 of 2 densities, at 50 % {how}"
    assert answers.better(found, intervals.compared(found)) == won
    loss = found.rename(columns=lambda name: name.replace("accuracy", "loss") if "accuracy" in name else f"{name}")
    loss = loss.loc[:, ~loss.columns.duplicated()]
    lost = f"imp is worse than random_reinit at 1 of 2 densities, at 50 % {how}"
    assert answers.better(loss, intervals.compared(loss)) == lost
    far = {"imp": {seed: (0.9, 0.8, 0.9 + seed / 1000) for seed in range(4)}}
    far["random_reinit"] = {seed: (0.9, 0.8 + seed / 1000, 0.8) for seed in range(4)}
    last = results.read(ledgers(tmp_path / "last", far))
    assert "at 1 of 2 densities, at 12.5 % (" in answers.better(last, intervals.compared(last))
    assert answer(last).startswith("imp matches dense in 1 of the 2 rounds down to 12.5 % of the weights, ")
    both = {seed: (0.9, 0.7 + seed / 500, 0.7 - seed / 500) for seed in range(4)}
    twice = results.read(ledgers(tmp_path / "twice", {"imp": apart["imp"], "random_reinit": both}))
    assert "at 2 of 2 densities, between 50 % and 12.5 % (" in answers.better(twice, intervals.compared(twice))
    near = {s: (0.9, *(a + (-1) ** s / 500 for a in of[1:])) for s, of in apart["imp"].items()}
    same = results.read(ledgers(tmp_path / "same", apart | {"random_reinit": near}))
    assert "imp is at no density shown to differ from random_reinit (" in answers.better(same, intervals.compared(same))
    alone = found[found["arm"] == "imp"]
    assert answers.better(alone, intervals.compared(alone)) == ""
    page = tmp_path / "report.html"
    files.write_page({STUDY: found}, page, {STUDY: None}, NAMES, [], {STUDY: {"again": "lottery run experiment=mine"}})
    (study,) = within(page)["studies"]
    assert (study["better"], study["again"]) == (won, "lottery run experiment=mine")
    assert [arm["what"] for arm in study["arms"]] == [options("arm")[name] for name in ("imp", "random_reinit")]


def test_a_study_of_runs_says_how_to_make_it_again(tmp_path: Path) -> None:
    def of(words: list[str]) -> dict[tuple[str, str, int], str]:
        cells = cell_configs(words)
        return {(job.study, job.label, job.seed): f"lottery run {shlex.join(job.command)}" for job in cells}

    every = of(["experiment=demo", "schedule.rounds=1", f"out={tmp_path}/an out", "optimizer.lr=0.01"])
    again = study_command(every.values())
    assert of(shlex.split(again)[2:]) == every
    assert len(every) > 2
    study = ledgers(tmp_path, ACCURACY)
    for seed, command in enumerate(["arm=imp seed=0 data=x", "arm=imp seed=1 data=x", "arm=imp seed=2 data=x"]):
        job = cell_configs(["arm=imp", "data=digits"])[0]
        text = f"# lottery run {command} hydra.mode=RUN\n{yaml.safe_dump(dict(job.config))}"
        (study / "imp" / f"seed{seed}" / "config.yaml").write_text(text)
    frame = results.read(study)
    tickets = frame[frame["arm"] == "imp"]
    found = beside(tickets)
    assert (found["again"], found["command"]) == (
        "lottery run data=x arm=imp seed=0,1,2 -m", "lottery run arm=imp seed=0 data=x hydra.mode=RUN",
    )  # fmt: skip
    assert "again" not in beside(frame)  # of the other arm no command is known
    other = "lottery run arm=random seed=0"
    for unlike in (["lottery run arm=imp seed=0 lr=1"], ["lottery run arm=imp seed=1"], ["lottery run seed=0"], [""]):
        assert study_command([other, *unlike]) == ""


def test_two_seeds_that_agree_have_no_interval(tmp_path: Path) -> None:
    frame = results.read(ledgers(tmp_path, {"imp": {0: (0.9, 0.9, 0.8), 1: (0.9, 0.9, 0.7)}}))
    (arm,) = study_data(frame, STUDY)["arms"]
    assert arm["columns"]["test_accuracy"]["half"][:2] == [None, None]
    assert arm["match"][1] == "undecided"


def test_rounded_numbers_and_none() -> None:
    assert numbers([1.0, 0.1234567, float("nan"), float("inf"), 6.76e11]) == [1, 0.123457, None, None, 676000000000]


def test_studies_taken_together_are_resampled_apart(frame: pd.DataFrame) -> None:
    few = frame.assign(data="d")
    assert together({"a": few.assign(study="a"), "b": few.assign(study="b")}) == []  # three runs in each
    same = pd.concat([few, few.assign(seed=few["seed"] + 3)])
    found = together({"a": same.assign(study="a"), "b": same.assign(study="b"), "c": few.assign(study="c")})
    assert [(row["arm"], row["density"], row["studies"], row["n"]) for row in found] == [
        ("imp", 0.5, 2, 12), ("imp", 0.125, 2, 12), ("random_reinit", 0.5, 2, 12), ("random_reinit", 0.125, 2, 12),
    ]  # fmt: skip
    # gains of imp at 50 %: 0.02, 0.01, 0.00, each four times; a quarter of twelve is three whole values
    assert found[0]["iqm"][0] == pytest.approx(0.01)


def close(folder: Path, study: str = "one", gain: float = 0.0) -> pd.DataFrame:
    """Two arms of five seeds, and one of a single seed, whose rounds are two per cent apart."""
    played = {
        arm: {
            seed: tuple(0.9 + (gain + of * index) * (1 + seed / 10) for index in range(3))
            for seed in range(1 if arm == "set" else 5)
        }
        for arm, of in {"imp": 0.01, "random_reinit": 0.002, "set": 0.0}.items()
    }
    frame = results.read(ledgers(folder / study, played, study))
    return frame.assign(data="d", density=frame["round"].map({0: 1.0, 1: 0.98, 2: 0.96}))


def test_neighbouring_rounds_of_one_study_are_not_taken_together(tmp_path: Path) -> None:
    found = together({study: close(tmp_path, study, gain) for study, gain in (("a", 0.0), ("b", 0.001))})
    assert [(row["arm"], round(row["density"], 6), row["studies"], row["n"]) for row in found] == [
        ("imp", 0.98, 2, 10), ("imp", 0.96, 2, 10), ("random_reinit", 0.98, 2, 10), ("random_reinit", 0.96, 2, 10),
    ]  # fmt: skip
    # gains of imp in the first round: 0.01 to 0.014 in each of both; of all ten the middle half
    assert found[0]["iqm"][0] == pytest.approx(0.012)
    assert found[1]["iqm"][0] == pytest.approx(0.024)


@pytest.mark.parametrize("steps", [1, 3, 40, 41, 79, 200])
def test_a_curve_has_as_many_points_as_fit_and_its_ends(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": step, "val_loss": 1 / step} for step in range(1, steps + 1)]
    monkeypatch.setattr("lottery.reports.page.beside.evaluations", lambda roots, key: (rows, {}))
    frame = pd.DataFrame({"arm": ["imp"], "round": [0], "phase": ["key"]})
    points = curves(frame, [Path()])[0]["imp"]["0"]
    assert len(points["step"]) == len(points["val_loss"]) == min(40, steps)
    assert (points["step"][0], points["step"][-1]) == (1, steps)


def test_numbers_of_pairs_are_rounded_once(frame: pd.DataFrame) -> None:
    """The page cuts them once more, to what it shows."""
    more = frame.assign(test_accuracy=frame["test_accuracy"] + frame["round"] * (frame["arm"] == "imp") * 0.00123449)
    (_, _, index, _, _, mean, *_), *_ = study_data(more, STUDY)["pairs"]
    paired = intervals.compared(more)
    assert mean == float(f"{paired['mean'].iloc[0]:.6g}") != float(f"{paired['mean'].iloc[0]:.4g}")
    assert index == paired["round"].iloc[0]


def test_a_paper_s_numbers_lie_over_the_curve(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "mine.csv", index=False)
    head = "id,claim,results,quantity,value,bound,where,not_run"
    lines = ["A,a,mine,test_accuracy: imp@0.5,0.95,0.1,x,", "B,b,other,test_accuracy: imp@0.5,0.95,0.1,x,",
             "C,c,mine,test_accuracy: imp@0.5 - imp@1,0,>=,x,"]  # fmt: skip
    (tmp_path / "expected.csv").write_text("\n".join([head, *lines]) + "\n")
    found = list(claims(frame, tmp_path / "mine.csv"))
    assert [(claim["id"], claim["verdict"]) for claim in found] == [("A", "holds"), ("C", "undecided")]
    assert found[0]["point"] == {
        "arm": "imp", "density": 0.5, "column": "test_accuracy", "value": 0.95, "tolerance": 0.1,
    }  # fmt: skip
    assert "point" not in found[1]


def test_training_curves_are_means_over_seeds(frame: pd.DataFrame, tmp_path: Path) -> None:
    for key, loss in (("a", 0.5), ("b", 0.7)):
        (tmp_path / key).mkdir()
        phase = {"rows": [{"step": 10, "val_loss": loss}], "spec": {"torch": "2.9", "device": "cpu"}}
        (tmp_path / key / "phase.json").write_text(json.dumps({"phase": phase}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "phase.json").write_text("{")
    dense = frame[(frame["arm"] == "imp") & (frame["round"] == 0)].assign(phase=["a", "b", "torn"])
    found, versions = curves(dense, [tmp_path / "gone", tmp_path])
    assert found == {"imp": {"0": {"step": [10], "val_loss": [0.6]}}}
    assert versions == ["torch 2.9 on cpu (2 trainings)"]


@pytest.mark.usefixtures("small")
def test_what_cannot_be_read_is_said_and_the_rest_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = ledgers(tmp_path / "runs", ACCURACY)
    (study / "imp" / "seed1" / "ledger.jsonl").write_text("no line\n")
    (study / "imp" / "seed2" / "error.txt").write_text("the loss became nan\n")
    (tmp_path / "empty").mkdir()
    words = tmp_path / "words.csv"
    words.write_text(
        "study,arm,seed,round,rounds,density,train_steps,early_stop_step,test_accuracy,early_stop_test_accuracy,val_loss\n"
        "s,imp,0,0,0,1,600,300,0.9,0.9,small\n"
    )
    problems = publishing.publish([study, words, tmp_path / "empty"], tmp_path / "out")
    assert [problem.partition(": ")[0] for problem in problems[1:]] == [
        f"{words}, line 2", f"no finished round under {tmp_path / 'empty'}",
    ]  # fmt: skip
    assert problems[0].startswith(f"{study / 'imp' / 'seed1' / 'ledger.jsonl'}, line 1 is damaged")
    assert "val_loss=small is no number" in problems[1]
    data = within(tmp_path / "out" / "report.html")
    assert data["problems"] == problems
    (told,) = data["studies"]
    assert told["failed"] == ["imp seed2: the loss became nan"]
    assert told["missing"] == [
        f"{STUDY} imp seed 1: its ledger is left out", f"{STUDY} imp seed 2: failed: the loss became nan",
    ]  # fmt: skip
    assert "n = 2 to 3" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_a_study_that_breaks_the_page_is_named(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = study_data, list[str]()

    def broken(part: pd.DataFrame, name: str) -> dict[str, Any]:
        return good(part, name) if name == "a" else 1 / 0

    monkeypatch.setattr(files, "study_data", broken)
    parts = {study: frame.assign(study=study) for study in ("a", "b")}
    data = files.page_data(parts, dict.fromkeys(parts), {study: study for study in parts}, said)
    assert [study["name"] for study in data["studies"]] == ["a"]
    assert len(said) == 1
    assert said[0].startswith("b can't be shown: ")


@pytest.mark.usefixtures("small")
def test_the_answer_can_be_read_without_javascript(frame: pd.DataFrame) -> None:
    text = files.page(files.page_data({STUDY: frame}, {STUDY: None}, NAMES, []))
    (told,) = re.findall(r"<noscript>(.*?)</noscript>", text, re.DOTALL)
    assert html.escape(answer(frame)) in told


@pytest.mark.usefixtures("small")
def test_names_cannot_leave_the_data(frame: pd.DataFrame) -> None:
    evil = "</script><script>alert(1)</script>"
    data = files.page_data({STUDY: frame}, {STUDY: None}, {STUDY: evil}, [])
    text = files.page(data)
    assert evil not in text
    assert "&lt;/script&gt;" in text  # in the title
    told = files.page_data({STUDY: frame}, {STUDY: None}, {STUDY: "<!-- never closed"}, ["cannot parse '<!-- x -->'"])
    held = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', files.page(told), re.DOTALL)
    assert held
    assert json.loads(held[1]) == json.loads(json.dumps(told))


def shifted(folder: Path) -> dict[str, pd.DataFrame]:
    """Two studies whose arms are alike but for a gain of the second, other for each seed and larger where sparse."""
    for study, gain in (("one", 0), ("two", 0.01)):
        played = {
            arm: {
                seed: tuple(score + gain * index * (1 + seed / 10) for index, score in enumerate(scores))
                for seed, scores in cells.items()
            }
            for arm, cells in ACCURACY.items()
        }
        ledgers(folder / "runs", played, study)
    return {str(study): part.assign(data="d") for study, part in results.read(folder / "runs").groupby("study")}


def test_the_page_says_on_what_was_trained_and_what_was_not(frame: pd.DataFrame) -> None:
    assert hosts(frame) == ["h (18 rounds)"]  # of a ledger from before hardware was noted
    two = frame.assign(**{"run/hardware": ["EPYC"] * 12 + ["H200"] * 6, "run/reused": [True] * 4 + [False] * 14})
    assert hosts(two) == ["h, EPYC (12 rounds, 4 of them from a store)", "h, H200 (6 rounds)"]
    assert hosts(two.iloc[::-1], most=1) == ["h, EPYC (12 rounds, 4 of them from a store)"]
    assert hosts(frame.drop(columns="run/host")) == []
    assert hosts(frame.assign(**{"run/host": None})) == ["unknown (18 rounds)"]


@pytest.mark.usefixtures("small")
def test_studies_are_compared_arm_by_arm(tmp_path: Path) -> None:
    frames = shifted(tmp_path)
    found = across(frames)
    assert [(of["arm"], of["studies"]) for of in found] == [(arm, ["one", "two"]) for arm in ("imp", "random_reinit")]
    for of in found:
        assert [pair[:4] for pair in of["pairs"]] == [[0, 1, 1, 3], [0, 1, 2, 3]]
        for pair, index in zip(of["pairs"], (1, 2), strict=True):
            gains = [0.01 * index * (1 + seed / 10) for seed in range(3)]
            assert pair[5:8] == pytest.approx(
                [-sum(gains) / 3, half(gains), stats.ttest_1samp(gains, 0).pvalue], rel=1e-4
            )
            assert pair[8] == pytest.approx(2 * of["pairs"][0][7], rel=1e-4)  # both p are the same, up to rounding
    more = {f"{number}": frames["one"].assign(study=f"{number}") for number in range(8)}
    assert across(more) == []
    other = frames["two"].assign(data="elsewhere")
    assert across({"one": frames["one"], "two": other}) == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two studies with the same arms, the second of one seed."""
    top = tmp_path_factory.mktemp("page")
    for study, seeds in (("one", (0, 1, 2)), ("two", (0,))):
        played = {arm: {seed: scores[seed] for seed in seeds} for arm, scores in ACCURACY.items()}
        ledgers(top / "runs", played, study)
    frame = results.read(top / "runs")
    frames = {str(study): part for study, part in frame.groupby("study")}
    files.write_page(
        frames, top / "report.html", dict.fromkeys(frames), {study: study for study in frames}, ["left: out"]
    )
    return top / "report.html"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
class TestInABrowser:
    """One page, opened from its file."""

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
    def test_it_opens_without_a_complaint_or_a_request(
        self, report: Path, size: tuple[int, int], dark: bool, tmp_path: Path
    ) -> None:
        with Browser() as browser:
            browser.open(report, size, dark)
            browser.until("document.querySelector('#chart svg path') && document.documentElement.dataset.ready")
            assert browser.errors == []
            assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
            assert browser.evaluate("document.body.innerText").count("left: out") == 1
            browser.picture(tmp_path / "page.png")
            assert (tmp_path / "page.png").stat().st_size > 20_000
            browser.printed(tmp_path / "page.pdf")
            assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")

    def test_an_arm_is_compared_with_its_own_in_another_study(self, tmp_path: Path) -> None:
        frames = shifted(tmp_path)
        files.write_page(frames, tmp_path / "report.html", dict.fromkeys(frames), {name: name for name in frames}, [])
        rows = "[...document.querySelectorAll('#pairs tbody tr')].map(row => row.innerText.split('\\t').slice(0, 3))"
        choose = "(([id, value]) => {{ const box = document.getElementById(id); box.value = value;"
        choose += "box.dispatchEvent(new Event('change')); return box.value; }})({})"
        with Browser() as browser:
            browser.open(tmp_path / "report.html")
            browser.until("document.querySelector('#chart svg path')")
            assert browser.evaluate("[...document.querySelectorAll('#other option')].map(one => one.value)") == [
                "random_reinit", "imp of two",
            ]  # fmt: skip
            assert browser.evaluate(choose.format('["other", "imp of two"]')) == "imp of two"
            around = [f"{half([0.01 * index * (1 + seed / 10) for seed in range(3)]):.4f}" for index in (1, 2)]
            assert browser.evaluate(rows) == [
                ["50 %", f"\u22120.0110 ±\u00a0{around[0]}", "3"], ["12.5 %", f"\u22120.0220 ±\u00a0{around[1]}", "3"],
            ]  # fmt: skip
            assert "all 2 tests of this arm in 2 studies" in browser.evaluate(
                "document.getElementById('pairs-note').textContent"
            )
            browser.evaluate(choose.format('["study", "two"]'))
            browser.evaluate(choose.format('["other", "imp of one"]'))
            assert browser.evaluate(rows)[0][1] == f"+0.0110 ±\u00a0{around[0]}"
            browser.evaluate(choose.format('["other", "random_reinit"]'))
            assert "of this study" in browser.evaluate("document.getElementById('pairs-note').textContent")
            assert browser.errors == []

    def test_a_round_s_own_numbers_stand_beside_its_difference(self, tmp_path: Path) -> None:
        """Not those of a round of almost its density; and arms of other seeds change nothing."""
        frames = {"one": close(tmp_path)}
        files.write_page(frames, tmp_path / "report.html", {"one": None}, {"one": "one"}, [])
        with Browser() as browser:
            browser.open(tmp_path / "report.html")
            browser.until("document.querySelector('#chart svg path')")
            rows = browser.evaluate(
                "[...document.querySelectorAll('#pairs tbody tr')].map(row => row.innerText.split('\\t'))"
            )
            assert [row[0] for row in rows] == ["98 %", "96 %"]
            assert [row[-1].split(" [")[0] for row in rows] == ["0.9120", "0.9240"]
            note = "document.getElementById('pairs-note').textContent"
            assert "With one seed" not in browser.evaluate(note)
            browser.evaluate(
                "(() => { const box = document.getElementById('other'); box.value = 'set';"
                "box.dispatchEvent(new Event('change')); })()"
            )
            assert "With one seed" in browser.evaluate(note)

    def test_switches_pointer_and_keys(self, report: Path) -> None:
        with Browser() as browser:
            browser.open(report)
            browser.until("document.querySelector('#chart svg path')")
            assert "Dotted: dense, of each study." in browser.evaluate("document.body.innerText")
            rows = "[...document.querySelectorAll('#readout tbody tr')].map(row => row.innerText.split('\\t'))"
            assert len(browser.evaluate(rows)) == 4
            browser.evaluate("document.querySelectorAll('#studies input')[1].focus()")
            browser.key(" ", " ")  # the second study, off
            shown = browser.evaluate(rows)
            assert [row[0].strip() for row in shown] == ["imp", "random_reinit"]
            browser.evaluate("document.querySelector('#at').focus()")
            browser.key("ArrowRight")
            assert browser.evaluate("document.querySelector('#at-said').textContent") == "round 1: 50 %"
            first = browser.evaluate(rows)[0]
            assert [cell.strip() for cell in first[1:]] == [
                "50 %", "0.9500 ±\u00a00.0745", "3", "undecided", "0.9200, 0.9500, 0.9800",
            ]  # fmt: skip
            gains = "[...document.querySelectorAll('#gains tbody tr')].map(row => row.innerText.split('\\t'))"
            middle = f"+0.0100 ±\u00a0{half([0.02, 0.01, 0.0]):.4f}"
            assert browser.evaluate(gains)[0] == ["50 %", middle, "undecided"]
            lines = "document.querySelectorAll('#chart .mark-line path').length"
            before = browser.evaluate(lines)
            x, y, width, height = browser.evaluate(
                "(() => { document.querySelector('#chart').scrollIntoView();"
                " const box = document.querySelector('#chart svg').getBoundingClientRect();"
                " return [box.x, box.y, box.width, box.height]; })()"
            )
            browser.move(x + width - 20, y + height / 2)
            assert browser.evaluate("document.querySelector('#at-said').textContent") == "round 2: 12.5 %"
            browser.until(f"{lines} === {before} + 3")  # the three seeds of the curve under the pointer
            browser.evaluate("document.querySelector('#y').value = 'early_stop_step'")
            browser.evaluate("document.querySelector('#y').dispatchEvent(new Event('change'))")
            assert browser.evaluate(rows)[0][2].strip() == "210 ±\u00a024.8"
            assert browser.errors == []

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_on_paper_nothing_is_cut_off_invisible_or_waiting_for_a_click(self, report: Path, dark: bool) -> None:
        with Browser() as browser:
            browser.open(report, LAPTOP, dark)
            browser.until("document.querySelector('#chart svg path')")
            # words of a figure are drawn as large as they are said to be, not scaled down from the screen's width
            browser.evaluate("dispatchEvent(new Event('beforeprint'))")
            assert browser.evaluate("document.querySelector('#chart svg').getAttribute('width')") == "660"
            browser.evaluate("dispatchEvent(new Event('afterprint'))")
            browser.paper()
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            wider = "one.getBoundingClientRect().right > innerWidth + 1"
            every = "[...document.querySelectorAll('{}')].filter(one => {}).map(one => one.id || one.outerHTML)"
            assert browser.evaluate(every.format("table, pre, #chart div", wider)) == []
            there = "one.checkVisibility()"
            waiting = "nav, input, button, .slide, details:not([open])"
            assert browser.evaluate(every.format(waiting, there)) == []
            # what the tables below are of is said by what was chosen, without a frame to click on
            assert browser.evaluate(every.format("select", there)) == ["study", "arm", "other"]
            assert browser.evaluate("getComputedStyle(document.querySelector('#arm')).borderTopWidth") == "0px"
            inks = browser.evaluate(
                "[...document.querySelectorAll('body *')].filter(one => one.checkVisibility() && one.innerText?.trim())"
                ".map(one => getComputedStyle(one).color)"
            )
            assert {max(map(int, re.findall(r"\d+", ink)[:3])) for ink in inks} <= {0, 0x33}
            assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert browser.errors == []

    def test_every_control_is_reached_by_the_tabulator(self, report: Path) -> None:
        with Browser() as browser:
            browser.open(report)
            browser.until("document.documentElement.dataset.ready")
            seen = set()
            for _ in range(40):
                browser.key("Tab")
                seen.add(browser.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
            assert {"y", "x", "band", "seeds", "at", "study", "arm", "other", "Skip to the figure"} <= seen

    @pytest.mark.skipif(not AXE.exists(), reason="AXE names no axe.min.js")
    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_axe_finds_nothing_serious(self, report: Path, dark: bool) -> None:
        with Browser() as browser:
            browser.open(report, LAPTOP, dark)
            browser.until("document.querySelector('#chart svg path')")
            browser.evaluate(f"{AXE.read_text()}; 0")
            found = browser.evaluate(
                "axe.run().then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
                ".map(one => one.id + ': ' + one.nodes.map(node => node.html).join(' ')))"
            )
            assert found == []
