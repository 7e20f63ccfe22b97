"""Drops hidden neurons by thresholds on their statistics: `python -m experiments.activation_statistics.grid RUNS`.

RUNS are folders of runs whose dense networks are pruned, one for each seed; nothing is trained. A neuron goes if both
the mean and the standard deviation of its activations are below their thresholds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from torch import Generator, Tensor

from experiments.compensation.curves import dense, network, pruning
from lottery.compress.sizes import sizes
from lottery.compress.smaller import Trained
from lottery.data.examples import Data
from lottery.foundations.errors import Refused
from lottery.pruning.contracts import Evidence
from lottery.pruning.criteria.features import moments
from lottery.reports.layout import plus_minus
from lottery.reports.layout import table as lines
from lottery.reports.statistics import mean_interval

MEANS, DEVIATIONS = (0.1, 0.2, 0.5, 1.0), (0.2, 0.4, 0.7, 1.0)
COMPENSATIONS = ("none", "mean", "least_squares")
BATCHES = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.activation_statistics.grid")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with dense networks")
    parser.add_argument("--data", required=True, help="what the files are called after")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="where the files go")
    asked = parser.parse_args()
    rows, neurons = [], []
    for cell in dense(asked.runs):
        rows += list(points(cell))
        neurons += list(statistics(network(cell)))
        print(f"pruned {cell}", flush=True)
    print(shown(pd.DataFrame(rows)))
    pd.DataFrame(rows).to_csv(asked.into / f"thresholds_{asked.data}.csv", index=False)
    pd.DataFrame(neurons).round(5).to_csv(asked.into / f"neurons_{asked.data}.csv", index=False)


def points(cell: Path) -> Iterator[dict[str, Any]]:
    """A row for each pair of thresholds and each compensation; those that leave a layer no neuron are left out."""
    trained = network(cell)
    whole = trained.network(trained.state, trained.masks)
    dense, before = trained.scores(whole)["test_accuracy"], sizes(whole, trained.recipe.example)
    for mean, deviation in product(MEANS, DEVIATIONS):
        thresholds = [f"criterion.mean={mean}", f"criterion.deviation={deviation}", f"criterion.batches={BATCHES}"]
        by = ["criterion=activation_statistics", *thresholds, "scope=threshold", "scope.above=1", "structure=channels"]
        try:
            masks = trained.chosen(pruning(trained, by), 1.0)
        except Refused:
            continue
        for compensation in COMPENSATIONS:
            small = trained.smaller(pruning(trained, by, compensation), masks).net
            after = sizes(small, trained.recipe.example)
            yield {
                "mean": mean, "deviation": deviation, "compensation": compensation, "seed": trained.seed,
                "size": after.bytes / before.bytes, "accuracy": trained.scores(small)["test_accuracy"],
                "dense": dense, "bytes": after.bytes, "peak_bytes": after.peak_bytes,
            }  # fmt: skip


def statistics(trained: Trained) -> Iterator[dict[str, Any]]:
    """Mean and standard deviation of each hidden neuron's activations over as many images as the thresholds look at."""
    net, data = trained.network(trained.state, trained.masks), trained.recipe.data
    assert isinstance(data, Data)
    with closing(data.evaluation("train", BATCHES * data.batch_size)) as batches:
        images, _ = next(batches)

    def run(batch: Tensor) -> Tensor:
        outputs: Tensor = net(batch)
        return outputs

    evidence = Evidence(net, trained.start, trained.masks, [images], run, lambda batch: run(batch).sum(), Generator())
    *hidden, _ = moments(evidence, 1).items()
    for name, (means, deviations) in hidden:
        for mean, deviation in zip(means.tolist(), deviations.tolist(), strict=True):
            yield {"layer": name.rpartition(".")[0], "mean": mean, "deviation": deviation}


def draw(neurons: pd.DataFrame, path: Path) -> None:
    """Histograms of both statistics, a line for each hidden layer."""
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained", sharey=True)
    for axes, column in zip(panels, ("mean", "deviation"), strict=True):
        for layer, part in neurons.groupby("layer"):
            axes.hist(part[column], bins=40, histtype="step", label=f"{layer} ({len(part):,} neurons)")
        axes.set_xlabel({"mean": "mean activation", "deviation": "standard deviation of the activation"}[column])
    panels[0].set_ylabel("neurons of all seeds")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def shown(table: pd.DataFrame) -> str:
    """Size, and change of accuracy in points with its 95 % interval, for each pair of thresholds."""
    change = 100 * (table["accuracy"] - table["dense"])
    rows = [["mean below", "deviation below", "size", *COMPENSATIONS]]
    for (mean, deviation), part in table.groupby(["mean", "deviation"]):
        of = {name: change[own.index] for name, own in part.groupby("compensation")}
        cells = (plus_minus(*mean_interval(of[name]), len(of[name]), 1, sign=True) for name in COMPENSATIONS)
        rows.append([f"{mean:g}", f"{deviation:g}", f"{part['size'].mean():.0%}", *cells])
    return "\n".join(lines(rows))


if __name__ == "__main__":
    main()
