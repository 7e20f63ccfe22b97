"""What the README shows is true: its make targets exist, its links lead somewhere, its example runs.

Its commands and its Python are tested with those of the other pages, in tests/test_docs.py.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), ROOT / "slurm" / "README.md"]


def test_stays_short() -> None:
    assert len(README.encode()) < 8000


def test_figures_of_speed_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "experiments" / "speed" / "results.json").read_text()).values()
    rows = {row["what"]: row["measured"] for taken in measured for row in taken["rows"]}

    def of(*begins: str) -> list[float]:
        found = [[value for what, value in rows.items() if what.startswith(begin)] for begin in begins]
        return [float(value.split()[0]) for [value] in found]

    lenet, step = "LeNet: steps/s over a bare loop, evaluation off, density ", "LeNet at density 3.6%: a step, "
    dense, masked, sparse, channels = of(
        f"{lenet}100%",
        f"{lenet}21%",
        f"{step}numerics.sparse=auto over a bare",
        "ResNet-18 at 224, batch 8: dense over",
    )
    short, long = (" ".join(text.split()) for text in (README, (ROOT / "docs" / "speed.md").read_text()))
    for said in (
        f"is {dense:.2f} times as fast as a bare PyTorch loop",
        f"{masked:.2f} times under masks",
        f"in {sparse:.2f} of a bare masked step",
        f"runs {channels:.1f} times as fast",
    ):
        assert said in short
    for said in (
        f"step takes {1 / dense:.2f} of that",
        f"{1 / masked:.2f} under masks, and {sparse:.2f} at 3.6 % density",
    ):
        assert said in long


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test", "docs"} <= named <= set(targets)


def test_links_lead_somewhere() -> None:
    found = 0
    for page in [*PAGES, ROOT / "CHANGELOG.md", *ROOT.glob("experiments/*/README.md")]:
        links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()) if "://" not in link]
        for link in links:
            assert (page.parent / link).exists(), f"{page}: {link}"
        found += len(links)
    assert found > 50


def test_paths_of_the_code_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = {name for name in re.findall(r"`([\w/]+/[\w.]*)`", text) if "<" not in name}
    assert len(named) > 30
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "lottery" / name).exists(), name


@pytest.mark.slow
def test_example_criterion_runs(lottery: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    python, yaml, command = re.findall(
        r"```(?:python|yaml|)\n((?:# mine|# conf_of_mine|lottery run --config-dir).*?)```", README, re.DOTALL
    )
    for text in (python, yaml):
        path = tmp_path / text.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True)
        path.write_text(text.split("\n", 1)[1])
    tiny = ["arm=imp", "seed=0", "schedule.rounds=1", "budget.steps=10", "tracking.mode=disabled"]
    done = lottery(*shlex.split(command)[1:], *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unlike the other studies here: criterion._target_=mine.criteria.movement\n" in done.stdout
    assert "(criterion=movement), " in done.stdout.split(": 2 cells to run")[0]
    for study in ("criterion=movement ", "criterion=magnitude"):  # of equal width, so that columns stay columns
        assert len(re.findall(rf"^{study} imp seed 0 {{13}}round  \d/1", done.stdout, re.MULTILINE)) == 2
    (written,) = (tmp_path / "runs").glob("comparison-*/comparison.md")
    assert "criterion=movement - criterion=magnitude" in written.read_text()
    assert len(re.findall(r"^\| +65\.35% \|", written.read_text(), re.MULTILINE)) == 1
    assert (tmp_path / "runs" / "report.html").is_file()
    assert (written.parent / "imp.png").is_file()
