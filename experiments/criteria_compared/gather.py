"""Puts the studies of all criteria into one frame: `python -m experiments.criteria_compared.gather runs/*`.

Each criterion is a study of its own; here it takes the place of the arm, and each arm has a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.gathering import arguments, function, gathered, written

FILES = {"one_shot": "trained.csv", "at_init": "init.csv"}
"""the file of an arm"""


def main() -> None:
    asked = arguments(__file__)
    for arm, file in FILES.items():
        written(gathered(asked.runs, partial(criterion, arm), "criteria_compared"), asked.into / file)


def criterion(arm: str, config: Mapping[str, Any], label: str) -> str | None:
    """The name of a cell's criterion, if the cell is of the arm."""
    return function(config["criterion"]) if label.partition(",")[0] == arm else None


if __name__ == "__main__":
    main()
