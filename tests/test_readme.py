"""What the README shows is true: its make targets exist, its links lead somewhere, its example runs.

Its commands and its Python are tested with those of the other pages, in tests/test_docs.py.
"""

from __future__ import annotations

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
    (written,) = (tmp_path / "runs").glob("comparison-*/comparison.md")
    assert "criterion=movement - criterion=magnitude" in written.read_text()
    assert len(re.findall(r"^\| +65\.35% \|", written.read_text(), re.MULTILINE)) == 1
    assert (tmp_path / "runs" / "report.html").is_file()
    assert (written.parent / "imp.png").is_file()
