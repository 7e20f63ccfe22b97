"""`lottery report`: prints and writes the reports of studies, and compares those that can be compared."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.commands.process import say
from lottery.foundations.errors import Refused

if TYPE_CHECKING:
    import pandas as pd

    Studies = Mapping[str, pd.DataFrame]
    Unlike = Mapping[str, Sequence[str] | None]
    """The settings in which each study differs from the others; None if they are not known."""


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
    left out, since it can't be read or reported. Whatever becomes of what is printed, all is written.
    Raises Refused for a results file or a stray ledger without `out`: it has no folder that is its study's alone.
    Raises LedgerError or FileNotFoundError if nothing is left.
    """
    from lottery.reports.comparison import differing
    from lottery.reports.results import gather

    paths = list(paths)
    if out is None and (written := [path for path in paths if path.suffix == ".csv"]):
        raise Refused(f"{written[0]}: say with --out where the report of a results file shall go")
    frame, problems = gather(*paths)
    ledgers = [Path(ledger) for ledger in frame["run/ledger"].unique()]
    for path in paths:
        if not any(ledger.is_relative_to(path) for ledger in ledgers) and not any(
            str(path) in each for each in problems
        ):
            problems.append(f"no finished round under {path}")
    cells = {str(study): Path(part["run/ledger"].iloc[0]) for study, part in frame.groupby("study", sort=True)}
    order = sorted(cells, key=lambda study: [cells[study].is_relative_to(path) for path in paths].index(True))
    unlike = differing({study: cells[study].parent for study in order})
    # without the columns that only other studies have
    studies = {study: frame[frame["study"] == study].dropna(axis="columns", how="all") for study in order}
    if out is None:
        folders = {study: _of_study(cells[study], studies[study].iloc[0]) for study in order}
    else:
        folders = {study: out / study if len(order) > 1 else out for study in order}
    if len(order) > 1:
        _several(studies, folders, unlike, problems, out)
    else:
        _alone(studies, folders, unlike, problems)
    return problems


def _alone(studies: Studies, folders: Mapping[str, Path], unlike: Unlike, problems: list[str]) -> None:
    """Prints and writes the report of the only study."""
    from lottery.reports.answers import screen
    from lottery.reports.folder import pictures, write
    from lottery.reports.page.files import write_page

    [(study, frame)] = studies.items()
    folder = folders[study]
    say(f"\n{screen(frame)}")  # also where nothing can be written
    write(frame, folder)
    say(f"table   {folder / 'report.md'}")
    say(f"figure  {', '.join(str(folder / name) for name in pictures(frame))}\nframe   {folder / 'results.csv'}")
    write_page(studies, folder / "report.html", unlike, {study: study}, problems)
    say(f"page    {folder / 'report.html'}")


def _several(
    studies: Studies, folders: Mapping[str, Path], unlike: Unlike, problems: list[str], out: Path | None
) -> None:
    """Prints an overview of some studies, writes the report of each, and compares those that can be compared."""
    from lottery.config.differences import called
    from lottery.reports.answers import overview
    from lottery.reports.comparison import comparable
    from lottery.reports.folder import pictures, write
    from lottery.reports.page.files import write_page

    for study, frame in studies.items():
        write(frame, folders[study], figures=len(studies) <= FIGURES)
    names = called({study: unlike[study] for study in studies})
    say(f"\n{overview(studies, names)}")
    for found in list(filter(None, map(unlike.get, studies)))[:SAID]:
        say(f"unlike the other studies here: {', '.join(found)}")
    for study in list(studies)[:SAID]:
        say(f"study   {folders[study]}/")
    if len(studies) > SAID:
        say(f"and {len(studies) - SAID} more")
    if len(studies) > FIGURES:
        drawn = ", ".join(pictures(next(iter(studies.values()))))
        say(f"{drawn} are drawn for at most {FIGURES} studies at once; report one alone for its own")
    for group in comparable(studies):
        compare({study: studies[study] for study in group}, unlike, _above(folders[study] for study in group))
    page = (out or _above(folders.values()) or next(iter(folders.values()))) / "report.html"
    write_page(studies, page, unlike, names, problems)
    say(f"page    {page}")


def _above(folders: Iterable[Path]) -> Path | None:
    """The folder in which all of these lie; None if there are several."""
    parents = {folder.resolve().parent for folder in folders}
    return Path(os.path.relpath(parents.pop())) if len(parents) == 1 else None


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
    from lottery.config.differences import called
    from lottery.foundations.digests import digest_of
    from lottery.foundations.files import write_whole
    from lottery.reports.comparison import MOST, shared_arms
    from lottery.reports.figures import draw
    from lottery.reports.tables import tables

    if len(studies) == 1:
        say(f"not compared: {', '.join(studies)}; no other study here is of its data and headline")
        return
    names = called({study: unlike[study] for study in studies})
    views = dict(shared_arms(studies, names))
    if not views:
        say(f"not compared: {', '.join(studies)}; they have no arm in common")
        return
    if folder is None:
        say("not written, since these studies lie in several folders; say with --out where to")
        return
    text = "# Studies compared\n\n" + "".join(_line(study, name, unlike[study]) for study, name in names.items())
    text += "".join(f"\n## {arm}\n\n{tables(view)}" for arm, view in views.items())
    folder = folder / f"comparison-{digest_of(list(studies))[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "comparison.md", text.encode())
    say(f"table   {folder / 'comparison.md'}")
    if len(studies) <= MOST:
        for arm, view in views.items():
            draw(view, folder / f"{arm}.png")
        say(f"figure  {', '.join(str(folder / f'{arm}.png') for arm in views)}")


def _line(study: str, name: str, unlike: Sequence[str] | None) -> str:
    what = "settings unknown" if unlike is None else ", ".join(unlike) or "in its code alone"
    return f"- {name}: {what}" + (f" ({study})" if name != study else "") + "\n"
