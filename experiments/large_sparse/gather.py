"""Puts networks of all widths into one file: `python -m experiments.large_sparse.gather runs/large_sparse`.

A method is a network's widths; at density 1 it is dense, below it is pruned gradually. Each data set has a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.gathering import arguments, gathered, on, written


def main() -> None:
    asked = arguments(__file__)
    for data in ("fashion_mnist", "mnist1d"):
        written(gathered(asked.runs, on(data, widths), f"large_sparse-{data}"), asked.into / f"{data}.csv")


def widths(config: Mapping[str, Any], label: str) -> str:
    """The widths of the hidden layers.

    >>> widths({"model": {"widths": [300, 100]}}, "gradual"), widths({"model": {"width": 500}}, "gradual")
    ('300-100', '500')
    """
    model = config["model"]
    return "-".join(map(str, model["widths"])) if "widths" in model else str(model["width"])


if __name__ == "__main__":
    main()
