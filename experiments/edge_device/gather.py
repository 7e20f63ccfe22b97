"""What each step gave: `python -m experiments.edge_device.gather RUNS COMPRESSED` writes a file for each network.

RUNS/<network> holds the cells that were trained, COMPRESSED/<network>/<step>_<seed> what `lottery compress` wrote; a
step is pruned, compensated or tuned. The ONNX file of the last is measured anew, by onnxruntime: its accuracy on the
test data, and its time in turns with the trained network's, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lottery.compress.latency import latencies, realised
from lottery.config.build import build_recipe
from lottery.config.cell_config import recorded
from lottery.config.recorded import load
from lottery.reports.layout import plus_minus
from lottery.reports.statistics import mean_interval
from lottery.reports.tables import table
from lottery.training.module_recipe import ModuleRecipe

STEPS = ("pruned", "compensated", "tuned")
SAID = {
    "checkpoint": "trained",
    "pruned": "without channels",
    "compensated": "refitted",
    "tuned": "trained on",
    "exported": "as ONNX",
}
BATCHES = (1, 64)


class Onnx(nn.Module):
    """An ONNX file as a network."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"inputs": inputs.numpy()})[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.edge_device.gather")
    parser.add_argument("runs", type=Path, help="holds a folder of runs for each network")
    parser.add_argument("compressed", type=Path, help="holds a folder for each network")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="where the results go")
    asked = parser.parse_args()
    for network in sorted(folder.name for folder in asked.compressed.iterdir()):
        cells = {recorded(cell)["seed"]: cell for cell in (asked.runs / network).glob("*/*/seed*")}
        # a seed without all of its steps is not finished
        seeds = [
            seed
            for seed in sorted(cells)
            if all((asked.compressed / network / f"{step}_{seed}").exists() for step in STEPS)
        ]
        rows = [row for seed in seeds for row in steps(asked.compressed / network, cells[seed], seed)]
        frame = pd.DataFrame(rows).assign(study=f"edge_device_{network}", rounds=1)
        frame.to_csv(asked.into / f"{network}.csv", index=False)
        print(f"wrote {asked.into / network}.csv: {len(seeds)} seeds")


def steps(folder: Path, cell: Path, seed: int) -> Iterator[dict[str, Any]]:
    """The trained network, and what each step made of it, beside which it stands as round 0."""
    found = {step: points(folder / f"{step}_{seed}" / "points.csv") for step in STEPS}
    whole = found["tuned"]["dense"]
    yield row("checkpoint", seed, 0, 1.0, whole)
    for step, table_ in found.items():
        share = next(name for name in table_ if name != "dense")
        yield row(step, seed, 0, 1.0, whole)
        yield row(step, seed, 1, float(share), table_[share])
    yield row("exported", seed, 0, 1.0, whole)
    tuned = next(values for name, values in found["tuned"].items() if name != "dense")
    yield row("exported", seed, 1, float(share), tuned | exported(folder / f"tuned_{seed}", cell, tuned["speedup"]))


def points(file: Path) -> dict[str, dict[str, Any]]:
    """The points that are networks of their own, by name."""
    frame = pd.read_csv(file, dtype={"point": str}).dropna(subset=["parameters"])
    rows = ({str(name): value for name, value in values.items()} for values in frame.to_dict("records"))
    return {str(values["point"]): values for values in rows}


def row(arm: str, seed: int, index: int, density: float, values: dict[str, Any]) -> dict[str, Any]:
    named = {"arm": arm, "seed": seed, "round": index, "density": density, "train_steps": 0}
    early = {"early_stop_step": 0} | {
        f"early_stop_{name}": value for name, value in values.items() if name.startswith("test_")
    }
    return {**named, **{name: value for name, value in values.items() if name != "point"}, **early}


def exported(folder: Path, cell: Path, theory: float) -> dict[str, Any]:
    """Bytes, accuracy and time of the ONNX file, measured anew."""
    file = folder / "network" / "model.onnx"
    recipe, net = build_recipe(recorded(cell)), Onnx(file)
    assert isinstance(recipe, ModuleRecipe)
    right = seen = 0
    with closing(recipe.data.evaluation("test", 500)) as batches:
        for inputs, targets in batches:
            right += int((net(inputs).argmax(1) == targets).sum())
            seen += len(targets)
    found: dict[str, Any] = {"bytes": file.stat().st_size, "test_accuracy": right / seen, "test_loss": None}
    nets = {"dense": load(cell, 0)[0], "onnx": net}
    timed = {(one.network, one.batch): one for one in latencies(nets, recipe.example, BATCHES)}
    for batch in BATCHES:
        own, faster = timed["onnx", batch].interval, realised(timed["dense", batch], timed["onnx", batch])
        ms = {"ms": own.middle, "ms_low": own.low, "ms_high": own.high}
        found |= {f"{name}_{batch}": 1e3 * value for name, value in ms.items()}
        speedups = {"realised": faster.middle, "realised_low": faster.low, "realised_high": faster.high}
        found |= {f"{name}_{batch}": value for name, value in speedups.items()}
        found[f"share_{batch}"] = faster.middle / theory
    return found


def decision(frame: pd.DataFrame) -> str:
    """A row for each step: accuracy over seeds, sizes, and times with their interval, of the first seed."""
    seeds, first = frame["seed"].nunique(), frame["seed"].min()
    lines = [
        ["", "test accuracy, %", "parameters", "multiply-adds", "bytes", *(f"ms, batch {batch}" for batch in BATCHES)]
    ]
    lines[0] += ["theoretical speedup", *(f"measured, batch {batch}" for batch in BATCHES)]
    for arm, said in SAID.items():
        part = frame[(frame["arm"] == arm) & ((frame["round"] == 1) | (arm == "checkpoint"))]
        one = part[part["seed"] == first].iloc[0]
        scores = list(100 * part["test_accuracy"])
        counts = [f"{int(one[name]):,}" for name in ("parameters", "multiply_adds", "bytes")]
        times = [interval(one, "ms", batch) for batch in BATCHES]
        speedups = [interval(one, "realised", batch) for batch in BATCHES]
        accuracy = plus_minus(*mean_interval(scores), len(scores), 1, seeds)
        lines.append([said, accuracy, *counts, *times, f"{one['speedup']:.2f}", *speedups])
    return "\n".join(table(lines))


def interval(values: pd.Series, what: str, batch: int) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(
        *(values[f"{name}_{batch}"] for name in (what, f"{what}_low", f"{what}_high"))
    )


if __name__ == "__main__":
    main()
