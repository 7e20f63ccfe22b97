"""Prunes dense networks at once and lets survivors make up: `python -m experiments.compensation.curves RUNS`.

RUNS are folders of runs, whose dense networks (round 0 of one arm each seed) are pruned. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.compress.smaller import Trained
from lottery.config.build import build_pruning, build_recipe
from lottery.config.cell_config import recorded
from lottery.config.compose import cell_configs
from lottery.config.recorded import phase
from lottery.foundations.seeds import Streams
from lottery.pruning.masks import density
from lottery.rounds.prune import Pruning
from lottery.rounds.round import Ticket, initial
from lottery.rounds.survivors import survivors
from lottery.store.folder import NAME, cells
from lottery.training.module_recipe import ModuleRecipe

COMPENSATIONS = ("none", "mean", "norm", "least_squares", "obs", "batch_norm")
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.compensation.curves")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with dense networks")
    parser.add_argument("--into", required=True, type=Path, help="the results file to write")
    parser.add_argument("--settings", nargs="*", default=[], help="criterion, scope or structure, other than magnitude")
    parser.add_argument("--densities", nargs="*", type=float, default=DENSITIES)
    asked = parser.parse_args()
    rows = []
    for cell in dense(asked.runs):
        rows += list(curve(cell, asked.settings, asked.densities))
        print(f"pruned {cell}", flush=True)
    frame = pd.DataFrame(rows).assign(study=f"compensation_{asked.into.stem}", rounds=len(asked.densities))
    frame.sort_values(["arm", "seed", "round"]).to_csv(asked.into, index=False)
    print(f"wrote {asked.into}")


def dense(tops: Sequence[Path]) -> list[Path]:
    """One finished cell for each seed."""
    found: dict[int, Path] = {}
    for cell in (cell for top in tops for cell in cells(top) if (cell / NAME).exists()):
        found.setdefault(recorded(cell)["seed"], cell)
    if not found:
        raise SystemExit(f"no cell under {', '.join(map(str, tops))}")
    return [found[seed] for seed in sorted(found)]


def curve(cell: Path, settings: Sequence[str], densities: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A row for the dense network and each density, by compensation."""
    trained = network(cell)
    chosen = {share: trained.chosen(pruning(trained, settings), share) for share in densities}
    whole = row(trained, "none", 0, trained.state, trained.masks)
    for compensation in COMPENSATIONS:
        yield whole | {"arm": compensation}
        asked = pruning(trained, settings, compensation)
        for index, masks in enumerate(chosen.values(), 1):
            left = survivors(trained.recipe, asked, trained.state, masks, trained.seed, 1)  # all on the same batches
            yield row(trained, compensation, index, Ticket.of(left, masks).state, masks)


def network(cell: Path) -> Trained:
    """A cell's dense network."""
    config = recorded(cell)
    recipe, entry, seed = build_recipe(config), phase(cell, 0), config["seed"]
    assert isinstance(recipe, ModuleRecipe)
    return Trained(recipe, entry.state, entry.masks, initial(recipe, Streams(seed).init), seed)


def pruning(trained: Trained, settings: Sequence[str], compensation: str = "none") -> Pruning:
    """How a network is pruned: by magnitude, over all of it, if the settings say nothing else."""
    asked = () if compensation == "none" else (f"compensation={compensation}",)
    (chosen,) = cell_configs(["scope=everywhere", *settings, *asked])
    return build_pruning(chosen.config, trained.recipe)


def row(trained: Trained, arm: str, index: int, state: Any, masks: Any) -> dict[str, Any]:
    found = trained.scores(trained.network(state, masks))
    scores = {name: found[name] for name in ("test_accuracy", "test_loss", "val_accuracy", "val_loss")}
    early = {f"early_stop_{name}": value for name, value in scores.items() if name.startswith("test_")}
    round_ = {"arm": arm, "seed": trained.seed, "round": index, "density": density(masks)}
    return {**round_, "train_steps": 0, **scores, "early_stop_step": 0, **early}


if __name__ == "__main__":
    main()
