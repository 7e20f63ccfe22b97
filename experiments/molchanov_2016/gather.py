"""Puts the studies of all criteria into one frame a network: `python -m experiments.molchanov_2016.gather runs/*`.

Each criterion is a study of its own; here it takes the place of the arm. Densities are the shares of the FLOPs that the
schedule asks for, at which criteria are compared; `flops` has those that were counted, `weights` the share of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.gathering import arguments, function, gathered, written

FILES = {"vgg.csv": "vgg", "resnet8.csv": "resnet"}
"""the network of a file"""
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
"""of the FLOPs, by round"""


def main() -> None:
    asked = arguments(__file__)
    for file, network in FILES.items():
        frame = gathered(asked.runs, partial(criterion, network), f"molchanov_2016_{Path(file).stem}")
        written(by_flops(frame), asked.into / file)


def criterion(network: str, config: Mapping[str, Any], label: str) -> str | None:
    """The name of a cell's criterion, if the cell is of the network."""
    if function(config["model"]) != network:
        return None
    chosen = config["criterion"]
    name = function(chosen.get("of") or chosen)
    if chosen.get("flops"):
        return f"{name}_flops"
    return "mean_activation" if name == "activation_statistics" else name


def by_flops(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the asked shares of FLOPs as densities; what layers keep of their weights is left out."""
    counted = frame["train_flops"] / frame["train_flops_dense"]
    frame = frame.assign(weights=frame["density"], flops=counted, density=frame["round"].map(lambda n: SHARES[n]))
    return frame[[column for column in frame if not str(column).startswith("density/")]]


if __name__ == "__main__":
    main()
