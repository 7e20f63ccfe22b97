"""What the analysis `sensitivity` found of the dense round, over seeds: curves, a table, and rates for a scope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lottery.foundations.metrics import headline
from lottery.reports.layout import digits_of, plus_minus, table
from lottery.reports.statistics import mean_interval
from lottery.store.ledger import Ledger

NAME = "sensitivity"
LEDGER = f"{NAME}.jsonl"


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each layer and share of it that was asked for: the share kept, and the validation metric over seeds.

    That is n, mean and half of the interval. The share 1 is the whole network. Layers are in the order of the network.
    Empty if nothing was measured, and for a frame that was read from a file of results, which does not hold it.
    """
    name = f"val_{headline(frame).name}"
    rows = [
        {"layer": each["layer"], "share": point["share"], "kept": point["kept"], "value": point[name]}
        for line in _dense(frame)
        for each in line["layers"]
        for point in ({"share": 1.0, "kept": 1.0, name: line[name]}, *each["shares"])
    ]
    found = []
    for (layer, share), part in pd.DataFrame(rows, columns=["layer", "share", "kept", "value"]).groupby(
        ["layer", "share"], sort=False
    ):
        mean, half = mean_interval(part["value"].dropna().astype(float))
        of = {"layer": layer, "share": share, "kept": part["kept"].mean(), "n": part["value"].notna().sum()}
        found.append({**of, "mean": mean, "half": half})
    return pd.DataFrame(found, columns=["layer", "share", "kept", "n", "mean", "half"])


def sensitivity_rows(frame: pd.DataFrame) -> list[list[str]]:
    """The table of `sensitivity`: the metric at each share, what is tolerated, and the multiple of a scope's rate."""
    lines, numbers = list(_dense(frame)), curves(frame)
    if not lines:
        return []
    shares, digits = list(dict.fromkeys(numbers["share"])), digits_of(numbers["mean"])
    rows = [["layer", "units", *(f"{share:.3g}" for share in shares), "tolerated", "rate"]]
    means = rates(frame)
    for index, layer in enumerate(dict.fromkeys(numbers["layer"])):
        of = numbers[numbers["layer"] == layer].set_index("share")
        cells = [
            plus_minus(of["mean"][share], of["half"][share], of["n"][share], digits, len(lines)) for share in shares
        ]
        least = pd.Series([line["layers"][index]["tolerated"] for line in lines]).mean()
        size, rate = lines[0]["layers"][index]["size"], means.get(layer, 0.0)
        rows.append([layer, f"{size:,}", *cells, f"{least:.3g}", f"{rate:.3g}"])
    return rows


def rates(frame: pd.DataFrame) -> dict[str, float]:
    """The mean of each layer's multiple of the rate over the seeds of which a layer can lose anything; else empty."""
    found = [line["rates"] for line in _dense(frame) if line["rates"]]
    return {layer: sum(rates[layer] for rates in found) / len(found) for layer in found[0]} if found else {}


def sensitivity_text(frame: pd.DataFrame) -> str:
    """The table with a heading and the setting with which a scope takes its rates; empty if nothing was measured."""
    if not (rows := sensitivity_rows(frame)):
        return ""
    found = rates(frame)
    text = "\n".join(
        [
            "",
            f"Validation {headline(frame).name} of the dense round, with one layer alone pruned to a share of its",
            "units and nothing trained (mean and 95 % interval over seeds). Tolerated is the lowest share within the",
            "allowed drop, and the rates are in proportion to what is then pruned.",
            "",
            *table(rows),
            "",
        ]
    )
    if not any(found.values()):
        return text
    layers = ",".join(f"{layer}:{rate:.3g}" for layer, rate in found.items())
    most = 1 / max(found.values())
    return (
        f"{text}\n`scope=rates '+scope.layers={{{layers}}}'` prunes by these rates, in rounds that prune at most "
        f"{most:.0%} of what is left.\n"
    )


def _dense(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Round 0 of each seed, which all arms have in common, from the first of them that was analysed."""
    if "run/ledger" not in frame or not any(str(column).startswith(f"{NAME}/") for column in frame):
        return
    first = frame[frame["round"] == 0]
    for _, arms in first.groupby("seed"):
        paths = [Path(ledger).with_name(LEDGER) for ledger in arms["run/ledger"]]
        lines = next((Ledger(path).lines() for path in paths if path.exists()), [])
        yield from lines[:1]
