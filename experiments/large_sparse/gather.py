"""Puts networks of all widths into one file: `python -m experiments.large_sparse.gather runs/large_sparse`.

A method is a network's widths; at density 1 it is dense, below it is pruned gradually. Each data set has a file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.gathering import function, gathered, written


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.large_sparse.gather")
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="where the files go")
    arguments = parser.parse_args()
    for data in ("fashion_mnist", "mnist1d"):

        def named(config: Mapping[str, Any], label: str, data: str = data) -> str | None:
            return widths(config["model"]) if function(config["data"]) == data else None

        written(gathered([arguments.runs], named, f"large_sparse-{data}"), arguments.into / f"{data}.csv")


def widths(model: Mapping[str, Any]) -> str:
    """The widths of the hidden layers.

    >>> widths({"widths": [300, 100]}), widths({"width": 500})
    ('300-100', '500')
    """
    return "-".join(map(str, model["widths"])) if "widths" in model else str(model["width"])


if __name__ == "__main__":
    main()
