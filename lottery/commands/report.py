"""`lottery report`: prints and writes the reports of studies, and compares those that can be compared."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Refused

if TYPE_CHECKING:
    import pandas as pd


FIGURES, SAID = 4, 6
"""The most studies whose figures are drawn in one report, and the most that a terminal names."""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("report", help="make table and figure from ledgers alone")
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold ledgers, or a report's results.csv")
    parser.add_argument("--out", type=Path, help="where to write; a study's own folder if not given")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Reports what some folders and results files hold; 1 if something had to be left out."""
    for path in args.runs:
        if not path.exists():
            raise FileNotFoundError(2, "no such folder or results file", str(path))
    problems = publish(args.runs, args.out)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return int(bool(problems))


def publish(paths: Iterable[Path], out: Path | None = None) -> list[str]:
    """Prints and writes the report of every study among some folders; into its own folder if `out` is not given.

    Several studies of the same data are then compared, with the one named first. Returns a sentence for all that is
    left out, since it can't be read or reported.
    Raises Refused for a results file or a stray ledger without `out`: it has no folder that is its study's alone.
    Raises LedgerError or FileNotFoundError if nothing is left.
    """
    from lottery.reports.answers import overview, screen
    from lottery.reports.comparison import called, comparable, differing
    from lottery.reports.folder import pictures, write
    from lottery.reports.page.files import write_page
    from lottery.reports.results import gather

    paths = list(paths)
    if out is None and (written := [path for path in paths if path.suffix == ".csv"]):
        raise Refused(f"{written[0]}: say with --out where the report of a results file shall go")
    frame, problems = gather(*paths)
    cells = {str(study): Path(part["run/ledger"].iloc[0]) for study, part in frame.groupby("study", sort=True)}
    order = sorted(cells, key=lambda study: [cells[study].is_relative_to(path) for path in paths].index(True))
    for path in paths:
        if not any(Path(ledger).is_relative_to(path) for ledger in frame["run/ledger"].unique()):
            problems += [] if any(str(path) in problem for problem in problems) else [f"no finished round under {path}"]
    unlike = differing({study: cells[study].parent for study in order})
    studies, folders = {}, {}
    for study in order:
        # without the columns that only other studies have
        studies[study] = part = frame[frame["study"] == study].dropna(axis="columns", how="all")
        folders[study] = (
            _of_study(cells[study], part.iloc[0]) if out is None else out / study if len(order) > 1 else out
        )
        if len(order) == 1:
            print(f"\n{screen(part)}", flush=True)  # also where nothing can be written
        write(part, folders[study], figures=len(order) <= FIGURES)
    names = called({study: unlike[study] for study in order})
    if len(order) > 1:
        print(f"\n{overview(studies, names)}", flush=True)
        for found in list(filter(None, map(unlike.get, order)))[:SAID]:
            print(f"unlike the other studies here: {', '.join(found)}")
    drawn = ", ".join(pictures(studies[order[0]]))
    for study in order[:SAID]:
        of = folders[study]
        print(f"page    {of / 'report.html'}\ntable   {of / 'report.md'}" if len(order) == 1 else f"study   {of}/")
        if len(order) == 1:
            print(f"figure  {', '.join(str(of / name) for name in pictures(studies[study]))}")
            print(f"frame   {of / 'results.csv'}")
            write_page(studies, of / "report.html", unlike, names, problems)
    if len(order) > SAID:
        print(f"and {len(order) - SAID} more")
    if len(order) > FIGURES:
        print(f"{drawn} are drawn for at most {FIGURES} studies at once; report one alone for its own")
    for group in comparable(studies) if len(order) > 1 else []:
        parents = {folders[study].resolve().parent for study in group}
        folder = Path(os.path.relpath(parents.pop())) if len(parents) == 1 else None
        compare({study: studies[study] for study in group}, unlike, folder)
    if len(order) > 1:
        above = {folder.resolve().parent for folder in folders.values()}
        place = out or (Path(os.path.relpath(above.pop())) if len(above) == 1 else folders[order[0]])
        write_page(studies, place / "report.html", unlike, names, problems)
        print(f"page    {place / 'report.html'}")
    return problems


def _of_study(ledger: Path, row: pd.Series) -> Path:
    """The folder of a study, from a cell's ledger in it. Raises Refused for a ledger that lies elsewhere."""
    seed, arm, study, *_ = ledger.resolve().parents
    if (arm.name, seed.name) != (row["arm"], f"seed{row['seed']}"):
        place = f"{row['arm']}/seed{row['seed']}/{ledger.name}"
        raise Refused(f"{ledger}: does not lie at {place} of a study; say with --out where its report shall go")
    return Path(os.path.relpath(study))


def compare(
    studies: Mapping[str, pd.DataFrame], unlike: Mapping[str, Sequence[str] | None], folder: Path | None
) -> None:
    """Writes a table for each arm that studies share, and their figures, into a folder of their own."""
    from lottery.foundations.digests import digest_of
    from lottery.foundations.files import write_whole
    from lottery.reports.comparison import MOST, called, shared_arms
    from lottery.reports.figures import draw
    from lottery.reports.tables import tables

    if len(studies) == 1:
        print(f"not compared: {', '.join(studies)}; no other study here is of its data and headline")
        return
    names = called({study: unlike[study] for study in studies})
    views = dict(shared_arms(studies, names))
    if not views:
        print(f"not compared: {', '.join(studies)}; they have no arm in common")
        return
    if folder is None:
        print("not written, since these studies lie in several folders; say with --out where to")
        return
    text = "# Studies compared\n\n" + "".join(_line(study, name, unlike[study]) for study, name in names.items())
    text += "".join(f"\n## {arm}\n\n{tables(view)}" for arm, view in views.items())
    folder = folder / f"comparison-{digest_of(list(studies))[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "comparison.md", text.encode())
    print(f"table   {folder / 'comparison.md'}")
    if len(studies) <= MOST:
        for arm, view in views.items():
            draw(view, folder / f"{arm}.png")
        print(f"figure  {', '.join(str(folder / f'{arm}.png') for arm in views)}")


def _line(study: str, name: str, unlike: Sequence[str] | None) -> str:
    what = "settings unknown" if unlike is None else ", ".join(unlike) or "in its code alone"
    return f"- {name}: {what}" + (f" ({study})" if name != study else "") + "\n"
