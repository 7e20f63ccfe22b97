"""Puts all masks of a data set into one file: `python -m experiments.pruning_at_init.gather runs/pruning_at_init`.

A method is a criterion, `magnitude_after` being magnitude after training; `,shuffled` and `,reinit` are its controls,
`,random_labels`, `,shuffled_pixels` and `,half` the data that it saw. Each data set has a file of the criteria alone
and one with their controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.gathering import arguments, function, gathered, on, written

CONTROLS = {"random_mask": ",shuffled", "random_reinit": ",reinit"}


def main() -> None:
    asked = arguments(__file__)
    for data in ("fashion_mnist", "mnist1d"):
        frame = gathered(asked.runs, on(data, method), f"pruning_at_init-{data}")
        written(frame[~frame["arm"].str.contains(",")], asked.into / f"{data}.csv")
        written(frame, asked.into / f"{data}_controls.csv")


def method(config: Mapping[str, Any], label: str) -> str:
    """The criterion, when it was asked, and what was done to its masks or its data."""
    criterion, arm = config["criterion"], label.partition(",")[0]
    name = function(criterion)
    if name == "corrupted":
        return f"{function(criterion['of'])},{criterion['data']}"
    after = "" if "at_init" in label else "_after"  # the parent of a control is in its label
    return f"{name}{after}{CONTROLS.get(arm, '')}"


if __name__ == "__main__":
    main()
