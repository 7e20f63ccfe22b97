"""Makes tables, figures and pages of `experiments/` from the committed results: `make tables`.

Where nothing has changed, every file is the same again, byte by byte. A figure is drawn if the README beside it shows
it. Pages (a report's, `<results>.html`) hold a plotting library of a megabyte each and are not committed.

A comment in a README marks the place of a table; everything between it and the next `<!-- end -->` is replaced:

    <!-- table: NAME -->     accuracy by density, from NAME.csv
    <!-- methods: NAME -->   test accuracy alone, a row for each arm: for many of them
    <!-- analyses: NAME -->  results of analyses, from NAME.csv
    <!-- cost: NAME -->      cost of training, from NAME.csv
    <!-- decision: NAME -->  a row for each step from a trained network to a file, from NAME.csv
    <!-- verdicts -->        verdicts on the claims of expected.csv; in experiments/README.md those of all folders
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

import pandas as pd

from lottery.reports.claims import EXPECTED
from lottery.reports.figures import BARRIER, draw, draw_barriers
from lottery.reports.layout import plus_minus
from lottery.reports.page.files import write_page
from lottery.reports.results import read
from lottery.reports.statistics import mean_interval
from lottery.reports.tables import accuracies, analyses, costs
from lottery.reports.tables import table as lines
from lottery.reports.verdicts import Verdict, table, verdicts

HERE = Path(__file__).parent
ROUND = {"study", "arm", "seed", "round"}
"""what names a round in a file of results"""
FLOPS = "share of the FLOPs (%)"
"""what the densities are of a file that counts FLOPs in a column of its own"""
_OPENING = re.compile(r"<!-- (?:(?:table|methods|analyses|cost|decision): \S+|verdicts) -->")
_BLOCK = re.compile(
    r"<!-- (?:(table|methods|analyses|cost|decision): (\S+)|verdicts) -->\n(.*?)<!-- end -->", re.DOTALL
)


def main() -> None:
    """Writes again what has changed: READMEs, figures and pages of a folder of experiments."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables", description="What experiments/ shows.")
    parser.add_argument("root", nargs="?", type=Path, default=HERE, help="another folder of experiments")
    root = parser.parse_args().root
    for made in chain(readmes(root), figures(root), reports(root)):
        print(f"wrote {made}")


def readmes(root: Path) -> Iterator[Path]:
    """Writes the READMEs whose tables have changed."""
    texts = {page: rebuilt(page) for page in pages(root)}
    if (measured := root / "speed" / "results.json").exists():
        from experiments.speed import bench

        texts[measured.with_name("README.md")] = bench.page(bench.rows.read(measured))
    for page, text in texts.items():
        if text != page.read_text():
            page.write_text(text)
            yield page


def figures(root: Path) -> Iterator[Path]:
    """Draws the figures that READMEs show, of results of the same name; `curve.png` is that of `results.csv`."""
    for file in results(root):
        figure = file.with_name("curve.png") if file.stem == "results" else file.with_suffix(".png")
        if f"]({figure.name})" in file.with_name("README.md").read_text():
            frame = read(file)
            if BARRIER in frame:
                draw_barriers(frame, figure)
            else:
                draw(frame, figure, FLOPS if "flops" in frame else None)
            yield figure
    for file in sorted(root.glob("activation_statistics/neurons_*.csv")):
        from experiments.activation_statistics import grid

        grid.draw(pd.read_csv(file), file.with_suffix(".png"))
        yield file.with_suffix(".png")
    if (measured := root / "speed" / "profile.csv").exists():
        from experiments.speed import profiles

        profiles.draw(measured, measured.with_suffix(".png"))
        yield measured.with_suffix(".png")


def reports(root: Path) -> Iterator[Path]:
    """Writes the page of every file of results; what it could not show, it says itself."""
    for file in results(root):
        frame, page = read(file), file.with_suffix(".html")
        study = str(frame["study"].iloc[0])
        readme = file.with_name("README.md").read_text()
        told = {study: {"about": question(readme), "again": command(readme)}}
        write_page({study: frame}, page, {study: None}, {study: f"{file.parent.name}/{file.stem}"}, [], told)
        yield page


def question(readme: str) -> str:
    """What a README asks, as plain text: its first paragraph.

    >>> question("# Tickets\\n\\n**Question.** Does `imp` win\\non [digits](../digits.md)?\\n\\nMore.\\n")
    'Does imp win on digits?'
    """
    first = next((part for part in readme.split("\n\n") if not part.startswith(("#", "```", "|", "<"))), "")
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first.removeprefix("**Question.**").replace("`", ""))
    return " ".join(plain.split())


def command(readme: str) -> str:
    """The commands that a README gives first: those that made its results, of this file and of those beside it.

    >>> command("Prose.\\n\\n```\\nlottery run experiment=demo\\n```\\n")
    'lottery run experiment=demo'
    """
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    runs = re.compile(r"^(lottery|make|python) ", re.MULTILINE)
    return next((block.strip() for block in blocks if runs.search(block)), "")


def pages(root: Path) -> list[Path]:
    """All READMEs that may contain tables."""
    return sorted([root / "README.md", *root.glob("*/README.md")])


def results(root: Path) -> list[Path]:
    """All files with results."""
    # other tables of a study, such as counts without any training, have columns of their own
    return sorted(file for file in root.glob("*/*.csv") if file.name != EXPECTED and set(_header(file)) >= ROUND)


def _header(file: Path) -> list[str]:
    with file.open(newline="") as lines:
        return next(csv.reader(lines), [])


def rebuilt(page: Path) -> str:
    """A README's text with its tables rebuilt. Raises ValueError for a table without an end mark."""
    text = page.read_text()
    blocks = list(_BLOCK.finditer(text))
    for opening in _OPENING.finditer(text):
        if opening.start() not in [block.start() for block in blocks]:
            raise ValueError(f"{page}: no <!-- end --> after {opening[0]}")
    return _BLOCK.sub(lambda block: _filled(page.parent, block), text)


def _filled(folder: Path, block: re.Match[str]) -> str:
    opening = block[0].partition("\n")[0]
    return f"{opening}\n{_content(folder, block[1], block[2]).strip()}\n<!-- end -->"


def _content(folder: Path, kind: str | None, name: str) -> str:
    if kind is None:
        return table(verdicts(folder)) if (folder / EXPECTED).exists() else every_verdict(folder)
    file = folder / f"{name}.csv"
    if not file.exists():
        return f"not run yet: {file.name}"
    return _TABLES[kind](read(file)) or "FLOPs were not counted yet when this ran."


def decision(frame: pd.DataFrame) -> str:
    """What each step gave and cost."""
    from experiments.edge_device import gather

    return gather.decision(frame)


def methods(frame: pd.DataFrame) -> str:
    """Test accuracy in per cent with its 95 % interval, an arm a row, a density a column."""
    density = frame.groupby(["arm", "round"])["density"].transform("mean")
    columns: list[float] = []
    for share in sorted(set(density), reverse=True):
        if not columns or share < 0.98 * columns[-1]:  # those of some arms differ by a few weights
            columns.append(share)
    at = density.map(lambda share: min(columns, key=lambda column: abs(column - share)))
    if frame.assign(at=at).duplicated(["arm", "seed", "at"]).any():
        raise ValueError("two rounds of an arm have nearly the same density: `table` shows them, `methods` can't")
    found = {key: list(100 * scores) for key, scores in frame["test_accuracy"].groupby([frame["arm"], at])}
    rows = [["", *(f"{share:.2%}" for share in columns)]]
    for arm in sorted(set(frame["arm"])):
        scores = (found.get((arm, share)) for share in columns)
        rows.append([arm, *(plus_minus(*mean_interval(each), len(each), 1) if each else "-" for each in scores)])
    return "\n".join(lines(rows))


_TABLES = {"table": accuracies, "methods": methods, "analyses": analyses, "cost": costs, "decision": decision}


def every_verdict(root: Path) -> str:
    """The number of claims for each verdict, and one table of all claims."""
    judged = {file.parent.name: verdicts(file) for file in sorted(root.glob(f"*/{EXPECTED}"))}
    if not judged:
        return "no claims yet"
    frame = pd.concat([part.assign(experiment=f"[{name}]({name}/README.md)") for name, part in judged.items()])
    frame = frame[["experiment", *(column for column in frame if column != "experiment")]]
    counts = frame["verdict"].value_counts()
    said = [f"{verdict} {counts.get(verdict, 0)}" for verdict in get_args(Verdict)]
    return f"{len(frame)} claims: {', '.join(said)}.\n\n{table(frame)}"


if __name__ == "__main__":
    main()
