"""Puts the studies of all criteria into one frame: `python -m experiments.criteria_compared.gather runs/*`.

Each criterion is a study of its own; here it takes the place of the arm, and each arm has a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from lottery.config.cell_config import recorded
from lottery.reports.results import read

HERE = Path(__file__).parent
FILES = {"one_shot": "trained", "at_init": "init"}
"""the file of an arm"""


def main() -> None:
    """Writes a results file for each arm that the studies have."""
    parser = argparse.ArgumentParser(prog="python -m experiments.criteria_compared.gather")
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies, one a criterion")
    parser.add_argument("--into", type=Path, default=HERE, help="where the files go")
    arguments = parser.parse_args()
    frame = pd.concat([named(study) for study in arguments.studies], ignore_index=True)
    for arm, part in frame.groupby("kind"):
        file = arguments.into / f"{FILES.get(str(arm), arm)}.csv"
        part.drop(columns="kind").sort_values(["arm", "seed", "round"]).to_csv(file, index=False)
        print(f"wrote {file}: {part['arm'].nunique()} criteria, {part['seed'].nunique()} seeds")


def named(study: Path) -> pd.DataFrame:
    """A study's frame with its criterion for an arm, and its arm as `kind`."""
    cell = next(path.parent for path in sorted(study.glob("*/seed*/config.yaml")))
    criterion = recorded(cell)["criterion"]["_target_"].rpartition(".")[2]
    frame = read(study)
    return frame.assign(kind=frame["arm"], arm=criterion, study="criteria_compared")


if __name__ == "__main__":
    main()
