"""The files of a study's report, made from ledgers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from lottery.foundations.files import write_whole
from lottery.reports.figures import BARRIER, draw, draw_barriers, draw_sensitivity
from lottery.reports.layout import Rows, comma_separated, latex, table
from lottery.reports.sensitivity import curves, sensitivity_rows, sensitivity_text
from lottery.reports.tables import all_rows, render

FORMATS: Mapping[str, Callable[[Rows], str]] = {
    "csv": comma_separated,
    "md": lambda rows: "\n".join(table(rows)) + "\n",
    "tex": latex,
}
WIDE, COLUMN = (".png",), (".svg", ".pdf")
"""A figure as wide as a page of the documentation, and as wide as a column of a paper."""


def write(frame: pd.DataFrame, folder: Path, figures: bool = True) -> None:
    """Writes `report.md`, `results.csv`, `tables/` and the figures as PNG, SVG and PDF, each atomically."""
    tables = all_rows(frame)  # raises for several studies, before anything is written
    tables["sensitivity"] = sensitivity_rows(frame)
    text = render(frame, tables) + sensitivity_text(frame)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.md", text.encode())
    columns = [column for column in frame if not str(column).startswith("run/")]
    write_whole(folder / "results.csv", frame[columns].to_csv(index=False).encode())
    for name, rows in tables.items():
        if len(rows) > 1:
            (folder / "tables").mkdir(exist_ok=True)
            for suffix, formatted in FORMATS.items():
                write_whole(folder / "tables" / f"{name}.{suffix}", formatted(rows).encode())
    for name, drawn in pictures(frame).items() if figures else ():
        drawn(frame, folder / name)
        for suffix in COLUMN:
            drawn(frame, (folder / name).with_suffix(suffix))


def pictures(frame: pd.DataFrame) -> Mapping[str, Callable[[pd.DataFrame, Path], None]]:
    """The figures of a study: file names and the functions that draw them."""
    measured = BARRIER in frame and frame[BARRIER].notna().any()
    found = {"curve.png": draw} | ({"barrier.png": draw_barriers} if measured else {})
    return found | ({"sensitivity.png": draw_sensitivity} if len(curves(frame)) else {})
