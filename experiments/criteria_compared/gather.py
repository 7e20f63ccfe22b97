"""Puts the studies of all criteria into one frame: `python -m experiments.criteria_compared.gather runs/*`.

Each criterion is a study of its own; here it takes the place of the arm, and each arm has a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from experiments.gathering import arguments, function, gathered, written
from lottery.reports.statistics import mean_interval
from lottery.reports.tables import table

FILES = {"one_shot": "trained.csv", "at_init": "init.csv"}
"""the file of an arm"""


def main() -> None:
    asked = arguments(__file__)
    for arm, file in FILES.items():
        frame = gathered(asked.runs, partial(criterion, arm), "criteria_compared")
        written(frame, asked.into / file)
        print("\n".join(compared(frame)))


def compared(frame: pd.DataFrame) -> list[str]:
    """A table of test accuracy in per cent with its 95 % interval, a criterion a row, a density a column."""
    # densities are counted, and differ between criteria in the last weight; those of a round are one column
    percent = frame.assign(share=frame.groupby("round")["density"].transform("mean"))
    means = percent.groupby(["arm", "share"])["test_accuracy"].agg(mean_interval).unstack().sort_index(axis=1)
    rows = [["criterion", *(f"{share:.2%}" for share in means.columns[::-1])]]
    for name, row in means.iterrows():
        rows.append([str(name), *(f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in row.iloc[::-1])])
    return table(rows)


def criterion(arm: str, config: Mapping[str, Any], label: str) -> str | None:
    """The name of a cell's criterion, if the cell is of the arm."""
    return function(config["criterion"]) if label.partition(",")[0] == arm else None


if __name__ == "__main__":
    main()
