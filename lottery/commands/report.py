"""`lottery report`: prints and writes the reports of studies, and compares those that can be compared."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lottery.foundations.errors import Refused

if TYPE_CHECKING:
    import pandas as pd


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("report", help="make table and figure from ledgers alone")
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold ledgers, or a report's results.csv")
    parser.add_argument("--out", type=Path, help="where to write; a study's own folder if not given")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Reports what some folders and results files hold."""
    for path in args.runs:
        if not path.exists():
            raise FileNotFoundError(2, "no such folder or results file", str(path))
    publish(args.runs, args.out)
    return 0


def publish(paths: Iterable[Path], out: Path | None = None) -> None:
    """Prints and writes the report of every study among some folders; into its own folder if `out` is not given.

    Several studies of the same data are then compared, with the one named first.
    Raises Refused for a results file or a stray ledger without `out`: it has no folder that is its study's alone.
    """
    from lottery.reports.comparison import comparable, differing
    from lottery.reports.results import read
    from lottery.reports.tables import pictures, render, write

    paths = list(paths)
    if out is None and (written := [path for path in paths if path.suffix == ".csv"]):
        raise Refused(f"{written[0]}: say with --out where the report of a results file shall go")
    frame = read(*paths)
    cells = {str(study): Path(part["run/ledger"].iloc[0]) for study, part in frame.groupby("study", sort=True)}
    order = sorted(cells, key=lambda study: [cells[study].is_relative_to(path) for path in paths].index(True))
    unlike = differing({study: cells[study].parent for study in order})
    studies, folders = {}, {}
    for study in order:
        # without the columns that only other studies have
        studies[study] = part = frame[frame["study"] == study].dropna(axis="columns", how="all")
        if out is None:
            folders[study] = _of_study(cells[study], part.iloc[0])
        else:
            folders[study] = out / study if len(order) > 1 else out
        if found := unlike[study]:
            print(f"\nunlike the other studies here: {', '.join(found)}")
        print(f"\n{render(part)}", flush=True)  # also where nothing can be written
        write(part, folders[study])
        drawn = ", ".join(str(folders[study] / name) for name in pictures(part))
        print(f"table   {folders[study] / 'report.md'}\nfigure  {drawn}\nframe   {folders[study] / 'results.csv'}")
    for group in comparable(studies) if len(order) > 1 else []:
        parents = {folders[study].resolve().parent for study in group}
        folder = Path(os.path.relpath(parents.pop())) if len(parents) == 1 else None
        compare({study: studies[study] for study in group}, unlike, folder)


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
    """Prints a table for each arm that studies share, and writes them and their figures into a folder of their own."""
    from lottery.foundations.digests import digest_of
    from lottery.foundations.files import write_whole
    from lottery.reports.comparison import MOST, called, shared_arms
    from lottery.reports.figures import draw
    from lottery.reports.tables import tables

    if not 1 < len(studies) <= MOST:
        of = "no other study here is of its data and headline" if len(studies) == 1 else f"at most {MOST} can be"
        print(f"\nnot compared: {', '.join(studies)}; {of}")
        return
    names = called({study: unlike[study] for study in studies})
    views = dict(shared_arms(studies, names))
    if not views:
        print(f"\nnot compared: {', '.join(studies)}; they have no arm in common")
        return
    text = "# Studies compared\n\n" + "".join(_line(study, name, unlike[study]) for study, name in names.items())
    text += "".join(f"\n## {arm}\n\n{tables(view)}" for arm, view in views.items())
    print(f"\n{text}", flush=True)
    if folder is None:
        print("not written, since these studies lie in several folders; say with --out where to")
        return
    folder = folder / f"comparison-{digest_of(list(studies))[:8]}"
    folder.mkdir(exist_ok=True)
    write_whole(folder / "comparison.md", text.encode())
    for arm, view in views.items():
        draw(view, folder / f"{arm}.png")
    drawn = ", ".join(str(folder / f"{arm}.png") for arm in views)
    print(f"table   {folder / 'comparison.md'}\nfigure  {drawn}")


def _line(study: str, name: str, unlike: Sequence[str] | None) -> str:
    what = "settings unknown" if unlike is None else ", ".join(unlike) or "in its code alone"
    return f"- {name}: {what}" + (f" ({study})" if name != study else "") + "\n"
