"""Puts network slimming and L1 norms into one frame: `python -m experiments.liu_2019.gather runs/liu2019_slimming-*`.

Each is a study of its own; here a method's name stands before its arm's. Densities are the share of the FLOPs that the
schedule asks for, at which methods are compared; `flops` has those that were counted, `weights` the share of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.gathering import arguments, function, gathered, written

METHODS = {"batch_norm_scale": "slimming", "magnitude": "l1"}
"""by criterion"""
SHARES = (1.0, 0.4)
"""of the FLOPs, by round"""


def main() -> None:
    asked = arguments(__file__)
    frame = gathered(asked.runs, method, "liu2019_slimming")
    counted = frame["train_flops"] / frame["train_flops_dense"]
    frame = frame.assign(weights=frame["density"], flops=counted, density=frame["round"].map(lambda n: SHARES[n]))
    written(frame[[column for column in frame if not str(column).startswith("density/")]], asked.into / "slimming.csv")


def method(config: Mapping[str, Any], label: str) -> str | None:
    """The method and the arm of a cell on a VGG."""
    name = METHODS.get(function(config["criterion"])) if function(config["model"]) == "vgg" else None
    return name and f"{name}_{label.partition(',')[0]}"


if __name__ == "__main__":
    main()
