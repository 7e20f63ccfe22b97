"""What the README shows is true: its commands compose, its links lead somewhere, its example runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lottery.config.compose import jobs
from lottery.config.groups import GROUPS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNS = [line.split("#")[0] for line in README.splitlines() if line.startswith("lottery run ")]


@pytest.mark.parametrize("line", [line for line in RUNS if "--config-dir" not in line])
def test_every_run_command_composes(line: str) -> None:
    assert jobs([word for word in shlex.split(line)[2:] if word != "--plan"])


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"`?make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text())
    assert {"demo", "test"} <= set(named) <= set(targets)


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("experiments/*/README.md")]:
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
        assert links
        for link in links:
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_stable_keys_of_the_table_exist() -> None:
    (job,) = jobs(["data=cifar10", "model=resnet_8"])
    keys = [
        key
        for row in README.splitlines()
        if row.startswith("| `")
        for key in re.findall(r"`([a-z_.]+)`", row.split("|")[1])
    ]
    assert len(keys) == 21
    for key in keys:
        top, _, rest = key.partition(".")
        assert rest in job.config[top] if rest else (top in job.config or top in GROUPS), key


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
    assert done.stdout.count("65.35%") >= 2
    assert "unlike the other studies here: criterion._target_=mine.criteria.movement\n" in done.stdout
    assert "criterion=movement - criterion=magnitude" in done.stdout
    (written,) = (tmp_path / "runs").glob("comparison-*/comparison.md")
    assert written.read_text() in done.stdout
    assert (written.parent / "imp.png").is_file()
