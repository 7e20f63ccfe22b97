"""Tables, figures and pages of experiments/ are those of the committed results and claims."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from experiments import tables
from tests.few import few

ROOT = Path(__file__).parent.parent / "experiments"
SHOWN = sorted(
    (page.parent / name).relative_to(ROOT).as_posix()
    for page in tables.pages(ROOT)
    for name in re.findall(r"\]\((\w+\.png)\)", page.read_text())
)
"""the figures that READMEs show"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the READMEs and their CSV files."""
    for file in [*tables.pages(ROOT), *ROOT.glob("*/*.csv"), ROOT / "speed" / "results.json"]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    return tmp_path


def made(tree: Path) -> None:
    list(tables.readmes(tree))


def test_the_committed_tables_are_those_of_the_committed_results(tree: Path) -> None:
    (tree / "speed" / "README.md").write_text("old")
    for page in tables.pages(tree):  # spoilt, so that doing nothing would be seen
        text = tables._BLOCK.sub(lambda block: block[0].replace(block[3], "old\n"), page.read_text())
        page.write_text(text)
    made(tree)
    for page in tables.pages(tree):
        assert page.read_text() == (ROOT / page.relative_to(tree)).read_text(), f"{page}: run `make tables`"


def test_every_claim_is_in_the_table_of_all(tree: Path) -> None:
    rows = (tree / "README.md").read_text().splitlines()
    for expected in tree.glob("*/expected.csv"):
        ids = [line.split(",")[0] for line in expected.read_text().splitlines()[1:]]
        name = expected.parent.name
        assert [
            row.split("|")[2].strip() for row in rows if row.startswith(f"| [{name}]") and row.count("|") > 4
        ] == ids


@pytest.mark.slow
def test_another_result_changes_the_table_and_a_second_run_nothing(tree: Path) -> None:
    page, file = tree / "demo" / "README.md", tree / "demo" / "results.csv"
    before = page.read_text()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ",imp,102," not in line))
    made(tree)
    after = page.read_text()
    assert "- imp: n = 5 (seeds 0, 1, 2, 100, 101)" in after
    outside = [tables._BLOCK.sub("", text) for text in (before, after)]
    assert outside[0] == outside[1]
    made(tree)
    assert page.read_text() == after


def test_a_results_file_that_is_not_there_yet(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "before\n<!-- table: fashion -->\n<!-- end -->\nmiddle\n<!-- verdicts -->\nold\n<!-- end -->\nafter\n"
    )
    assert tables.rebuilt(page) == (
        "before\n<!-- table: fashion -->\nnot run yet: fashion.csv\n<!-- end -->\n"
        "middle\n<!-- verdicts -->\nno claims yet\n<!-- end -->\nafter\n"
    )


def test_the_cost_of_results_that_counted_no_flops(tree: Path) -> None:
    page, file = tree / "demo" / "README.md", tree / "demo" / "results.csv"
    page.write_text("<!-- cost: results -->\n<!-- end -->\n")
    assert "Training cost, mean over seeds" in tables.rebuilt(page)
    frame = pd.read_csv(file)
    frame[[column for column in frame if "flops" not in column]].to_csv(file, index=False)
    assert "FLOPs were not counted yet when this ran." in tables.rebuilt(page)


@pytest.mark.parametrize(
    "text", ["<!-- verdicts -->\n", "<!-- table: a -->\n\n<!-- verdicts -->\n<!-- end -->\n", "<!-- table: a -->"]
)
def test_a_table_that_nothing_ends(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"text\n{text}")
    with pytest.raises(ValueError, match=r"README\.md: no <!-- end --> after <!-- "):
        tables.rebuilt(tmp_path / "README.md")


def test_methods_of_other_densities_have_columns_of_their_own() -> None:
    rows = [
        ("wide", 0, 0, 1.0, 0.9), ("wide", 1, 0, 1.0, 0.7), ("wide", 0, 1, 0.5, 0.6), ("wide", 1, 1, 0.499, 0.6),
        ("narrow", 0, 0, 1.0, 0.8), ("narrow", 0, 1, 0.25, 0.5),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "seed", "round", "density", "test_accuracy"])
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.methods(frame).splitlines()]
    assert found[0] == ["", "100.00%", "49.95%", "25.00%"]
    assert found[2] == ["narrow", "80.0 (n = 1)", "-", "50.0 (n = 1)"]
    assert found[3] == ["wide", "80.0 ± 127.1", "60.0 (n = 2, equal)", "-"]
    with pytest.raises(ValueError, match="two rounds of an arm have nearly the same density"):
        tables.methods(frame.assign(density=1.0))


@pytest.mark.parametrize("name", few(SHOWN, 2))
def test_the_committed_figures_are_those_of_the_committed_results(name: str, tmp_path: Path) -> None:
    committed = ROOT / name
    shutil.copytree(committed.parent, tmp_path / committed.parent.name, ignore=shutil.ignore_patterns("*.png"))
    assert tmp_path / name in list(tables.figures(tmp_path))
    first = (tmp_path / name).read_bytes()
    # bytes, for `git diff` is to show what has changed; the pixels in case another library has packed them
    assert first == committed.read_bytes() or np.array_equal(plt.imread(tmp_path / name), plt.imread(committed))
    list(tables.figures(tmp_path))
    assert (tmp_path / name).read_bytes() == first


def test_every_figure_that_a_readme_shows_can_be_made_again() -> None:
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.png")} == set(SHOWN)
    for name in SHOWN:
        if "/neurons_" in name or name == "speed/profile.png":  # of single neurons, of parts of a step: no rounds
            continue
        results = (
            (ROOT / name).with_name("results.csv") if name.endswith("curve.png") else (ROOT / name).with_suffix(".csv")
        )
        assert results in tables.results(ROOT)


def test_a_page_for_each_file_of_results(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "linear_connectivity", tmp_path / "linear_connectivity")
    names = ["lenet.html", "resnet8.html"]
    assert [page.name for page in tables.reports(tmp_path)] == names
    pages = [(tmp_path / "linear_connectivity" / name).read_bytes() for name in names]
    assert b"linear_connectivity/lenet" in pages[0]
    list(tables.reports(tmp_path))
    assert [(tmp_path / "linear_connectivity" / name).read_bytes() for name in names] == pages
