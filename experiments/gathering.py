"""Puts cells of several studies into one results file, where each method has the place of an arm.

Studies that differ in criterion, width or learning rate have reports of their own; claims and tables compare arms of
one study. `gathered` gives each cell the name of its method instead of its arm's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.config.cell_config import recorded
from lottery.reports.results import read
from lottery.store.folder import NAME, cells


class NoCells(SystemExit):
    """There is no cell of a study below the folders that were named."""


Named = Callable[[Mapping[str, Any], str], str | None]
"""(a cell's configuration, its arm's label) -> the method's name; None leaves the cell out"""


def arguments(file: str) -> argparse.Namespace:
    """The command line of a study's `gather.py`: folders of runs, and where the results go, by default beside it."""
    folder = Path(file).parent
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{folder.name}.gather")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--into", type=Path, default=folder, help="where the results go")
    return parser.parse_args()


def on(data: str, named: Named) -> Named:
    """The same name for cells on one data set, none for others."""
    return lambda config, label: named(config, label) if function(config["data"]) == data else None


def gathered(tops: Iterable[Path], named: Named, study: str) -> pd.DataFrame:
    """The rounds of all cells below some folders, with the method's name as `arm`, sorted by it.

    A cell that failed before its first round, as one that diverges does, is left out.
    Raises NoCells if there are none, SystemExit if two cells of a seed have one name.
    """
    frames = []
    for cell in (cell for top in tops for cell in cells(top) if (cell / NAME).exists()):
        frame = read(cell)
        name = named(recorded(cell), str(frame["arm"].iloc[0]))
        if name is not None:
            frames.append(frame.assign(arm=name, study=study))
    if not frames:
        raise NoCells(f"no cell of {study} under {', '.join(map(str, tops))}")
    whole = pd.concat(frames, ignore_index=True).sort_values(["arm", "seed", "round"], ignore_index=True)
    if (twice := whole.duplicated(["arm", "seed", "round"], keep=False)).any():
        first, second, *_ = whole[twice]["run/ledger"]
        raise SystemExit(
            f"{first} and {second} are both {whole[twice]['arm'].iloc[0]}; give the studies of one of them"
        )
    return whole


def whichever(files: Mapping[str, Callable[[], None]]) -> None:
    """Writes the files whose studies have been run, and says which have not. Raises NoCells if none has."""
    lacking = []
    for name, write in files.items():
        try:
            write()
        except NoCells as none:
            lacking.append(none)
            print(f"not written: {name}; {none}")
    if len(lacking) == len(files):
        raise lacking[-1]


def written(frame: pd.DataFrame, file: Path) -> None:
    """Writes a results file without what only tells of the run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [column for column in frame if not str(column).startswith("run/")]
    frame[columns].to_csv(file, index=False)
    print(f"wrote {file}: {frame['arm'].nunique()} methods, {frame['seed'].nunique()} seeds")


def function(node: Mapping[str, Any]) -> str:
    """The name of the function that a configured node calls.

    >>> function({"_target_": "lottery.pruning.criteria.snip"})
    'snip'
    """
    return str(node["_target_"]).rpartition(".")[2]
