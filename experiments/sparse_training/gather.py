"""Puts the ways to train sparse into files: `python -m experiments.sparse_training.gather runs/sparse_training`.

`fashion_mnist.csv` holds LeNet-300-100; an arm that trained for the dense network's FLOPs has `,equal_flops` after its
name. `mocanu2018.csv` holds SET's own MLP: each arm, and the dense network as one, at the learning rate with the best
mean validation accuracy over seeds, `rates.csv` what all rates gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.gathering import arguments, function, gathered, whichever, written

ARMS = {"at_init": "static"}
STUDY = "mocanu2018"


def main() -> None:
    asked = arguments(__file__)

    def lenet() -> None:
        written(gathered(asked.runs, of_lenet, "sparse_training"), asked.into / "fashion_mnist.csv")

    def mlp() -> None:
        best, rates = chosen(gathered(asked.runs, of_mlp, STUDY))
        written(best, asked.into / f"{STUDY}.csv")
        rates.to_csv(asked.into / "rates.csv", index=False)
        print(rates.to_string(index=False))

    whichever({"fashion_mnist": lenet, STUDY: mlp})


def arm_of(label: str) -> str:
    name = label.partition(",")[0]
    return ARMS.get(name, name)


def of_lenet(config: Mapping[str, Any], label: str) -> str | None:
    if function(config["model"]) != "lenet_300_100":
        return None
    return arm_of(label) + (",equal_flops" if "length" in config["arm"] else "")


def of_mlp(config: Mapping[str, Any], label: str) -> str | None:
    return f"{arm_of(label)}@{config['optimizer']['lr']:g}" if function(config["model"]) == "mlp" else None


def chosen(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each arm at its best rate, dense networks (round 0, the same in every arm) being an arm; and all rates.

    A rate at which a seed diverged is no choice.
    """
    names = frame["arm"].str.split("@", expand=True)
    frame = frame.assign(arm=names[0].where(frame["round"] > 0, "dense"), rate=names[1].astype(float))
    frame = frame.drop_duplicates(["arm", "rate", "seed"])
    rates = frame.groupby(["arm", "rate"], as_index=False).agg(
        n=("seed", "count"), val_accuracy=("val_accuracy", "mean"), test_accuracy=("test_accuracy", "mean")
    )
    whole = rates[rates["n"] == rates["n"].max()]
    best = whole.loc[whole.groupby("arm")["val_accuracy"].idxmax(), ["arm", "rate"]]
    rates["chosen"] = rates["rate"].eq(rates["arm"].map(best.set_index("arm")["rate"]))
    return frame.merge(best, on=["arm", "rate"]).sort_values(["arm", "seed"], ignore_index=True), rates


if __name__ == "__main__":
    main()
