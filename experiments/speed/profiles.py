"""The profile of a step as a table and a figure, from profile.csv."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lottery.reports.drawing import LOOKS, sheet
from lottery.reports.tables import table as lines

FILE = Path(__file__).parent / "profile.csv"
PARTS = ("gathering", "forward", "backward", "optimizer", "masks", "rest")
"""gathering a batch; the network and its loss; and so on, as a step has them"""
STEP = "step"


def parted(file: Path) -> pd.DataFrame:
    """Microseconds by loop and part, in the order in which they were written."""
    frame = pd.read_csv(file)
    return frame.pivot(index="loop", columns="part", values="microseconds").loc[list(dict.fromkeys(frame["loop"]))]


def table(file: Path) -> str:
    """Microseconds of CPU time of each part, a loop a row."""
    found = parted(file)
    rows = [["", *PARTS, "step"]]
    rows += [[str(loop), *(f"{row[part]:,.0f}" for part in (*PARTS, STEP))] for loop, row in found.iterrows()]
    return "\n".join(lines(rows))


def draw(file: Path, figure: Path) -> None:
    """A bar for each loop, as long as its step, of its parts."""
    found = parted(file)
    with sheet(figure, 2.8, 1) as page:
        axes = page.subplots()
        left = pd.Series(0.0, index=found.index)
        for part, (colour, *_) in zip(PARTS, LOOKS, strict=False):
            axes.barh(found.index, found[part], left=left, color=colour, label=part)
            left += found[part].clip(lower=0)
        axes.invert_yaxis()
        axes.set_xlabel("microseconds of CPU time a step, LeNet-300-100, batch 60")
        page.legend(loc="outside upper center", ncols=len(PARTS), frameon=False, fontsize=8)
