"""The line of a round in a cell's ledger."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from torch import nn

from lottery.foundations.metrics import Headline
from lottery.pruning import masks
from lottery.pruning.masks import Masks
from lottery.pruning.paths import layer_death
from lottery.rounds.round import Round
from lottery.rounds.study import Cell
from lottery.store.entries import Entry
from lottery.store.ledger import Line
from lottery.training.hardware import Hardware
from lottery.training.recipes import Recipe, Row


def line_of(cell: Cell, current: Round) -> Line:
    """The ledger line of a round, without `run`: the same whether its phase was trained or found in the store."""
    entry = current.trained
    assert isinstance(entry, Entry)
    headline = cell.study.recipe.headline
    last, best = entry.rows[-1], early_stop(entry.rows, headline)
    measured = {name: value for name, value in sorted(last.items()) if name.startswith(("test_", "val_"))}
    steps = current.last - current.first
    own = current.own_cost(cell.study.recipe)
    whole = current.cost(cell.study.recipe)
    return Line(
        {
            "study": cell.study.name,
            "arm": cell.label,
            "seed": cell.seed,
            "round": current.index,
            "rounds": len(cell.study.pruning.schedule),
            "density": masks.density(entry.masks),
            "train_steps": steps,
            "train_flops": own.scaled,
            "train_flops_dense": own.dense,
            "total_flops": whole.scaled,
            "total_flops_dense": whole.dense,
            **measured,
            "early_stop_step": best["step"],
            f"early_stop_test_{headline.name}": best[f"test_{headline.name}"],
            "compression_ratio": compression_ratio(cell.study.recipe.net, entry),
            "layer_densities": masks.layer_densities(entry.masks),
            "phase": entry.key,
            "data": cell.study.recipe.data.digest[:16],
            "setting": cell.digest,
        }
        | headline.columns()
        | ({"stopped": current.ends} if current.ends else {})
        | ({"collapsed": lost} if (lost := collapse(cell.study.recipe, entry.masks)) else {})
    )


def collapse(recipe: Recipe, kept: Masks) -> str | None:
    """What a network has lost with its weights: a whole layer, or every path to its output; None if neither."""
    if dead := layer_death(kept):
        return f"{masks.some(dead)}: no weight is left"
    return "no path of kept weights leads from input to output" if recipe.paths(kept) == 0 else None


def circumstances(current: Round, started: float, hardware: Hardware) -> dict[str, Any]:
    """The entry `run` of a line, the only one that may differ between two runs: where, when, whether reused."""
    entry = current.trained
    assert isinstance(entry, Entry)
    return {
        "seconds": round(time.time() - started, 3),
        "reused": entry.reused,
        "host": socket.gethostname(),
        "hardware": hardware.model,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def early_stop(rows: Sequence[Row], headline: Headline) -> Row:
    """The evaluation with the smallest validation loss, the first of equals. Training does not end there.

    Where no validation loss is measured, as a Lightning project may not, it is the best by the headline.
    """

    def worse(row: Row) -> float:
        loss, value = row.get("val_loss"), row.get(f"val_{headline.name}")
        found = loss if loss is not None else -headline.gain(value) if value is not None else math.inf
        return math.inf if math.isnan(found) else found

    return min(rows, key=worse)


def compression_ratio(net: nn.Module, entry: Entry) -> float:
    """All parameters over those that are kept (Blalock et al. 2020), counted in the trained network.

    Raises ArithmeticError if a pruned weight is not exactly zero.
    """
    total = sum(parameter.numel() for parameter in net.parameters())
    pruned = 0
    for name, mask in entry.masks.items():
        gone = entry.state[name][~mask]
        if gone.any():
            raise ArithmeticError(f"{name}: a pruned weight is not zero")
        pruned += gone.numel()
    return total / (total - pruned)
