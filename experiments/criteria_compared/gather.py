"""Puts the studies of all criteria into one frame: `python -m experiments.criteria_compared.gather runs/*`.

Each criterion is a study of its own; here it takes the place of the arm, and each data set and arm have a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.gathering import arguments, function, gathered, on, whichever, written

FILES = {
    "trained": ("digits", "lenet_300_100", "one_shot"),
    "init": ("digits", "lenet_300_100", "at_init"),
    "fashion_trained": ("fashion_mnist", "lenet_300_100", "one_shot"),
    "fashion_init": ("fashion_mnist", "lenet_300_100", "at_init"),
    "resnet_trained": ("fashion_mnist", "resnet", "one_shot"),
}
"""file -> data, network and arm of its cells"""


def main() -> None:
    asked = arguments(__file__)

    def write(file: str, data: str, network: str, arm: str) -> None:
        named = on(data, partial(criterion, network, arm))
        written(gathered(asked.runs, named, "criteria_compared"), asked.into / f"{file}.csv")

    whichever({file: partial(write, file, *of) for file, of in FILES.items()})


def criterion(network: str, arm: str, config: Mapping[str, Any], label: str) -> str | None:
    """The name of a cell's criterion, if the cell is of the network and the arm."""
    fits = function(config["model"]) == network and label.partition(",")[0] == arm
    return function(config["criterion"]) if fits else None


if __name__ == "__main__":
    main()
