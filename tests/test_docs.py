"""The documentation is correct: commands compose or run, examples run, tables are complete."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch

import lottery
from lottery.commands import main as cli
from lottery.config.build import build
from lottery.config.check import check
from lottery.config.compose import cell_configs
from lottery.config.groups import CONF, GROUPS
from tests.conftest import environment
from tests.few import few
from tests.notebooks import executed

ROOT = Path(__file__).parent.parent
DOCS = sorted(ROOT.glob("docs/**/*.md"))
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
READING = ROOT / "experiments" / "reading.ipynb"
PAGES = [ROOT / "README.md", ROOT / "slurm" / "README.md", *DOCS]
STUDY = Path("runs/demo-digits-c50a07ad")
"""the study that the pages speak of; its digest is that of `experiment=demo` as it is shipped"""
TINY = ["budget.steps=6", "budget.evaluate=3", "tracking.mode=disabled", "hardware.accelerator=cpu"]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages; "" is a block that names none, which holds commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """The `lottery` commands that a page shows, as words, comments left out."""
    lines = [line for text in blocks(page, "") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lottery ")]


ALL = [words for page in PAGES for words in commands(page) if "--config-dir" not in words]
PROJECTS = [words for words in ALL if "mine.lit" in shlex.join(words)]
COMPRESSED = [words for words in PROJECTS if words[0] == "compress"]
SHOWN = [words for words in ALL if words not in PROJECTS]
EXECUTED = [words for words in SHOWN if words[0] != "run"]
COMPOSED = sorted({shlex.join(w for w in words[1:] if w != "--plan") for words in SHOWN if words[0] == "run"})


@pytest.mark.parametrize("command", few(COMPOSED, 12))
def test_run_commands_compose(command: str) -> None:
    words = shlex.split(command)
    assert cell_configs(words[: words.index("--cfg")] if "--cfg" in words else words)


@pytest.fixture
def mine(here: Path) -> None:
    """The project that the pages speak of, where commands find it."""
    project = (ROOT / "experiments" / "own_lightning" / "project.py").read_text()
    for module in ("__init__", "lit", "data"):
        (here / "mine").mkdir(exist_ok=True)
        (here / "mine" / f"{module}.py").write_text("" if module == "__init__" else project)
    sys.path.insert(0, str(here))
    sys.argv = ["lottery"]


@pytest.mark.parametrize("command", sorted({shlex.join(words[1:]) for words in PROJECTS if words not in COMPRESSED}))
def test_commands_for_a_lightning_project_fit(command: str, mine: None) -> None:
    check(build(cell_configs(shlex.split(command))[0]))


@pytest.mark.slow
def test_weights_of_a_lightning_project_are_compressed(mine: None, here: Path) -> None:
    assert COMPRESSED
    safetensors.torch.save_file(import_module("mine.lit").LitSegmenter().state_dict(), "net.safetensors")
    for words in COMPRESSED:
        code, command = said(*words)
        assert code == 0, command
        assert (here / "compressed" / "network" / "model.pt2").exists()
        shutil.rmtree(here / "compressed")


def said(*words: str) -> tuple[int, str]:
    """Exit code of a `lottery` command in this process, and the words for the message of a failed assertion."""
    sys.argv = ["lottery", *words]
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0), shlex.join(words)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, for commands in this process; what they import from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "mine":
            del sys.modules[name]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small studies under the names that the pages use, so that their commands find them."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [])
        for arm in ("imp", "random_reinit"):
            assert said("run", "experiment=demo", "hydra.mode=RUN", f"arm={arm}", "seed=0", *TINY)[0] == 0
        assert said("run", "schedule.rounds=1", *TINY)[0] == 0
        next(iter(folder.glob("runs/demo-digits-*"))).rename(STUDY)
        for name in ("experiments", "conf"):
            (folder / name).symlink_to(ROOT / name)
    return folder


def test_the_study_that_the_pages_name_is_the_demo_s() -> None:
    [job] = cell_configs(["experiment=demo", "hydra.mode=RUN"])
    assert job.folder.parts[:2] == STUDY.parts
    for page in PAGES:
        assert set(re.findall(r"demo-digits-[0-9a-f]+", page.read_text())) <= {STUDY.name}, page


@pytest.mark.slow
def test_other_commands_run(played: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs them in order, as a reader would: a ticket is exported before it is shown."""
    monkeypatch.chdir(played)
    assert {words[0] for words in EXECUTED} == {
        "compress", "list", "report", "status", "watch", "store", "verdict", "overlap", "ticket",
    }  # fmt: skip
    for words in EXECUTED:
        if any(name in shlex.join(words) for name in ("fc2019", "cifar10")):  # data and studies that are not there
            continue
        tiny = [*TINY, "optimizer.lr=0.01", "hydra.launcher.n_jobs=1"] if words[:2] == ["ticket", "run"] else []
        code, command = said(
            *(path for word in words for path in (sorted(glob(word)) if "*" in word else [word])), *tiny
        )
        assert code == 0, command


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_examples_in_python_run(page: Path, played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(played)
    namespace: dict[str, object] = {}
    for text in blocks(page, "python"):
        if not text.startswith("# mine/"):  # a file, which another test writes
            exec(compile(text, str(page), "exec"), namespace)
    if "density" in namespace:
        lines = (STUDY / "imp" / "seed0" / "ledger.jsonl").read_text().splitlines()
        assert namespace["density"] == json.loads(lines[7])["density"]


@pytest.mark.slow
def test_extensions_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "extending.md"
    files = [text.partition("\n") for text in blocks(page, "python", "yaml")]
    for name, _, text in files:
        path = here / name.removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (here / "mine" / "__init__.py").touch()
    asked = [words for words in commands(page) if "experiment=demo" not in words]  # that one is the README's too
    groups = ["criterion", "scope", "schedule", "arm", "model", "data", "module", "optimizer"]
    assert [re.findall(r"(\w+)=", shlex.join(words))[0] for words in asked] == groups
    assert {Path(name).parent.name for name, _, _ in files if "conf_of_mine" in name} == set(groups)
    for words in asked:
        steps = "budget.steps=120" if "arm=halfway" in words else "budget.steps=6"
        rounds = [] if "schedule=cubic" in words else ["schedule.rounds=2"]
        code, command = said(*words, *TINY[1:], steps, *rounds)
        out, err = capsys.readouterr()
        assert code == 0, command + out + err
    ledgers = [[json.loads(line) for line in path.read_text().splitlines()] for path in here.rglob("ledger.jsonl")]
    assert len(ledgers) == len(groups)
    densities = {line["study"].split("-")[1]: line["density"] for lines in ledgers for line in lines[-1:]}
    assert set(densities) == {"digits", "spirals"}
    assert [round(lines[-1]["density"], 3) for lines in ledgers if len(lines) == 9] == [
        0.02
    ]  # the cubic schedule's end


def test_every_arm_is_in_the_table_of_arms() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "concepts" / "arm.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in CONF.glob("arm/*.yaml"))


def test_every_scope_and_structure_is_in_a_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "concepts" / "round.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(
        path.stem for group in ("scope", "structure") for path in CONF.glob(f"{group}/*.yaml")
    )


def test_the_catalogue_names_every_way_to_prune() -> None:
    text = (ROOT / "docs" / "catalogue.md").read_text()
    for group in ("criterion", "scope", "structure", "schedule", "arm"):
        table = text.partition(f"| {group} | source |")[2].partition("\n\n")[0]
        named = [name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", f"{row}||".split("|")[1])]
        assert sorted(named) == sorted(path.stem for path in CONF.glob(f"{group}/*.yaml"))


def test_every_column_of_a_ledger_is_in_its_table(played: Path) -> None:
    page = (ROOT / "docs" / "concepts" / "ledger.md").read_text().partition("## Reading")[0]
    table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(\w+)`", row)}
    line = json.loads((played / STUDY / "imp" / "seed0" / "ledger.jsonl").read_text().splitlines()[0])
    assert named - {"stopped", "collapsed"} == line.keys()


def test_stable_keys_of_the_table_exist() -> None:
    (job,) = cell_configs(["data=cifar10", "model=resnet_8"])
    text = (ROOT / "docs" / "use.md").read_text()
    rows = text[text.index("## Keys") : text.index("## Groups")].splitlines()
    keys = [key for row in rows if row.startswith("| `") for key in re.findall(r"`([a-z_.]+)`", row.split("|")[1])]
    assert len(keys) == 27
    for key in keys:
        top, _, rest = key.partition(".")
        assert rest in job.config[top] if rest else (top in job.config or top in GROUPS), key


def test_every_page_is_reached_from_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"^ +- .*?(\S+\.md)$", text[text.index("\nnav:") :], re.MULTILINE))
    pages = [*DOCS, *(notebook.with_suffix(".md") for notebook in NOTEBOOKS)]  # of which the site makes pages
    own = {page.relative_to(ROOT / "docs").as_posix() for page in pages}
    assert own <= named
    for name in named - own:
        assert (ROOT / name).exists() or (ROOT / name).with_suffix(".ipynb").exists(), name


def test_every_room_of_the_code_has_a_page_of_reference_and_a_line_in_contributing() -> None:
    rooms = {path.parent.name for path in ROOT.glob("lottery/*/__init__.py")}
    pages = {page.stem for page in DOCS if page.parent.name == "reference"} - {"index"}
    assert pages == rooms
    for room in rooms:
        assert f"::: lottery.{room}\n" in (ROOT / "docs" / "reference" / f"{room}.md").read_text()
    rows = re.findall(r"^\| `(\w+)/?` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert set(rows) == rooms | {"algorithm"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "doctest", "docs/hooks.py"], cwd=ROOT, env=environment(), check=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"index.html", "concepts/round.html", "slurm/index.html", "experiments/demo/index.html"} <= pages.keys()
    for name, text in pages.items():
        tags = re.findall(r"<(?:script|link|img|iframe)[^>]*", text)
        assert not [tag for tag in tags if re.search(r"(?:src|href)=.?(?:https?:)?//", tag)], name
        assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL), name  # a doctest as prose
    pruning = pages["reference/pruning.html"]
    for said in ("share of the currently unpruned weights to keep", 'id="lottery.pruning.scopes.rates"'):
        assert said in pruning


@pytest.mark.parametrize("path", [*NOTEBOOKS, READING], ids=lambda path: path.name)
def test_notebooks_hold_outputs_of_their_code(path: Path) -> None:
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)


def outputs(notebook: dict[str, Any]) -> list[list[str]]:
    """Of each cell, without digits: on another processor an accuracy's last digits may differ, and so may a verdict."""

    def shape(output: dict[str, Any], command: bool) -> str:
        text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        return output["output_type"] + ("" if command else re.sub(r"[\d.,]+", "0", text))

    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[shape(each, cell["source"][0].startswith("!")) for each in cell["outputs"]] for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_give_their_outputs(path: Path, tmp_path: Path) -> None:
    committed = json.loads(path.read_text())
    assert outputs(executed(committed, tmp_path)) == outputs(committed)


def test_the_notebook_of_the_experiments_gives_what_the_committed_results_say() -> None:
    def told(notebook: dict[str, Any]) -> list[str]:
        found = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        return ["".join(output["data"].get("text/plain", "a figure")) for output in found]

    committed = json.loads(READING.read_text())
    assert told(executed(committed, READING.parent)) == told(committed)
    assert told(committed).count("a figure") == 2


KINDS = {
    "text": pd.api.types.is_string_dtype,
    "whole number": pd.api.types.is_integer_dtype,
    "number": pd.api.types.is_float_dtype,
    "truth value": pd.api.types.is_bool_dtype,
    "list of texts": lambda column: column.map(lambda value: isinstance(value, list)).all(),
}
"""the types of columns, by their words in docs/concepts/ledger.md"""


def test_columns_of_a_frame_are_of_the_documented_types(played: Path) -> None:
    page = (ROOT / "docs" / "concepts" / "ledger.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| ([a-z ]+) \|", page[page.index("## Reading") :], re.MULTILINE)
    frame = lottery.read(played / STUDY)
    said = {name: kind for names, kind in rows for name in re.findall(r"`([^`]+)`", names)}
    patterns = {re.sub(r"<[a-z]+>", "[^/]+", name).replace("*", ".*"): kind for name, kind in said.items()}
    for column in frame:
        kinds = [kind for pattern, kind in patterns.items() if re.fullmatch(pattern, str(column))]
        assert kinds, f"{column} is in no row"
        assert KINDS[kinds[0]](frame[column]), column
    unused = [pattern for pattern in patterns if not any(re.fullmatch(pattern, str(column)) for column in frame)]
    assert unused == ["headline_better", "headline_scale", "stopped", "collapsed"]
