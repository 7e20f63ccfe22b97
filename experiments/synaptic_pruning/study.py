"""Which synapses an associative memory should lose: `python -m experiments.synaptic_pruning.study`.

Writes `results.csv`, `strength.csv`, `growth.csv` and `recall.csv`, and prints what is measured beside the closed forms
of Chechik, Meilijson & Ruppin (1998). Nothing is trained, so that a row's steps are 0 and its early stop is its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.synaptic_pruning import memory as net
from experiments.synaptic_pruning.closed_forms import DELETIONS, density_of
from experiments.synaptic_pruning.measured import tables
from lottery.reports.figures import draw
from lottery.reports.results import read

HERE = Path(__file__).parent
DENSITIES = (0.9, 0.75, 0.5, 0.4, 0.3, 0.25, 0.2, 0.1, 0.05, 0.01)
STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large the networks are; the defaults are those of the study."""

    neurons: int = 1000
    patterns: int = 20_000
    coding: float = 0.1
    """share of a pattern's neurons that is active"""
    small: int = 250
    """neurons of the intact network whose number of synapses grown ones keep to"""
    small_patterns: int = 5000
    recall_neurons: int = 800
    recall_patterns: int = 80
    exchanged: float = 0.2
    """share of the active neurons that is exchanged in the state from which a pattern is recalled"""
    updates: int = 20


def main(words: Sequence[str]) -> None:
    """Writes the results and the figure into `--out`, and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.synaptic_pruning.study")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args(words)
    files: dict[str, list[Row]] = {"results": [], "strength": [], "growth": [], "recall": []}
    for seed in range(args.seeds):
        for name, row in every(seed, Sizes()):
            files[name].append(row)
        for name, rows in files.items():
            pd.DataFrame(rows).round(6).to_csv(args.out / f"{name}.csv", index=False)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    draw(read(args.out / "results.csv"), args.out / "curve.png")
    print(tables(args.out))


def every(seed: int, sizes: Sizes) -> Iterator[tuple[str, Row]]:
    """All rows of a seed, each with the file it belongs to; each file has random numbers of its own."""
    many, few, grown = (np.random.default_rng([seed, stream]) for stream in range(3))
    stored = net.stored_many(sizes.neurons, sizes.patterns, sizes.coding, many)
    for row in deletions(stored, many):
        yield "results", row | {"seed": seed}
    for row in strengths(stored, many):
        yield "strength", row | {"seed": seed}
    for row in growth(sizes, grown):
        yield "growth", row | {"seed": seed}
    for row in recall(sizes, few):
        yield "recall", row | {"seed": seed}


def deletions(stored: net.Stored, rng: np.random.Generator) -> Iterator[Row]:
    """Every deletion at every density, and weakening with regulation."""
    weights = stored.weights
    intact, counts = net.snr(weights, stored), [synapses(len(weights), density) for density in DENSITIES]
    orders = {by: net.ranking(weights, rng, by) for by in (False, True)}

    def rows(arm: str, lefts: Iterable[tuple[int, net.Floats]]) -> Iterator[Row]:
        yield row_of("results", arm, 0, len(DENSITIES), 1.0, "snr", 1.0, strength=1.0)
        for index, (count, left) in enumerate(lefts, start=1):
            value, total = net.snr(left, stored) / intact, net.strength(left, weights)
            density = count / synapses(len(weights), 1)
            yield row_of("results", arm, index, len(DENSITIES), density, "snr", value, strength=total)

    for deletion in DELETIONS:
        order = orders[deletion != "random"]
        yield from rows(deletion, ((count, net.deleted(deletion, weights, order, count)) for count in counts))
    yield from rows("weakened", ((int(np.count_nonzero(left)), left) for left in net.weakened(weights, counts)))


def strengths(stored: net.Stored, rng: np.random.Generator) -> Iterator[Row]:
    """Every deletion but random, which needs all the strength at any density, at densities of equal strength."""
    weights = stored.weights
    intact, order, last = net.snr(weights, stored), net.ranking(weights, rng, True), len(STRENGTHS)
    for deletion in DELETIONS[1:]:
        yield row_of("strength", deletion, 0, last, 1.0, "snr", 1.0, strength=1.0)
        for index, total in enumerate(STRENGTHS, start=1):
            count = synapses(len(weights), density_of(deletion, total))
            left = net.deleted(deletion, weights, order, count)
            value, needed = net.snr(left, stored) / intact, net.strength(left, weights)
            density = count / synapses(len(weights), 1)
            yield row_of("strength", deletion, index, last, density, "snr", value, strength=needed)


def growth(sizes: Sizes, rng: np.random.Generator) -> Iterator[Row]:
    """Every deletion in networks that have grown until it leaves them as many synapses as the small one has."""
    stored = net.stored_many(sizes.small, sizes.small_patterns, sizes.coding, rng)
    intact, budget, last = net.snr(stored.weights, stored), synapses(sizes.small, 1), len(DENSITIES) - 1
    for deletion in DELETIONS:
        yield row_of("growth", deletion, 0, last, 1.0, "snr", 1.0, neurons=sizes.small)
    for index, density in enumerate(DENSITIES[:-1], start=1):
        neurons = round(0.5 + sqrt(0.25 + budget / density))
        stored = net.stored_many(neurons, sizes.small_patterns, sizes.coding, rng)
        weights = stored.weights
        orders = {by: net.ranking(weights, rng, by) for by in (False, True)}
        for deletion in DELETIONS:
            left = net.deleted(deletion, weights, orders[deletion != "random"], budget)
            value, kept = net.snr(left, stored) / intact, budget / synapses(neurons, 1)
            yield row_of("growth", deletion, index, last, kept, "snr", value, neurons=neurons)


def recall(sizes: Sizes, rng: np.random.Generator) -> Iterator[Row]:
    """Recall of every pattern with a fixed threshold, halfway between the mean fields of silent and active neurons."""
    patterns = net.drawn(sizes.recall_neurons, sizes.recall_patterns, sizes.coding, rng)
    start = net.distorted(patterns, sizes.exchanged, rng)
    stored = net.stored(patterns, sizes.coding)
    weights, last = stored.weights, len(DENSITIES)
    intact, every = net.snr(weights, stored), synapses(len(weights), 1)
    orders = {by: net.ranking(weights, rng, by) for by in (False, True)}

    def row(arm: str, index: int, density: float, left: net.Floats) -> Row:
        state = net.recalled(left, start, (1 - 2 * sizes.coding) / 2, sizes.updates)
        found, value = net.overlap(state, patterns, sizes.coding), net.snr(left, stored) / intact
        alike = net.correlation(left, weights)
        return row_of("recall", arm, index, last, density, "overlap", found, snr=value, correlation=alike)

    for deletion in DELETIONS:
        for suffix in ("", ",regulated"):
            yield row(deletion + suffix, 0, 1.0, weights)
            for index, density in enumerate(DENSITIES, start=1):
                count = synapses(len(weights), density)
                left = net.deleted(deletion, weights, orders[deletion != "random"], count)
                left = net.regulated(left, weights) if suffix else left
                yield row(deletion + suffix, index, count / every, left)


def synapses(neurons: int, density: float) -> int:
    """The number of synapses at a density."""
    return round(density * neurons * (neurons - 1))


def row_of(file: str, arm: str, index: int, last: int, density: float, metric: str, value: float, **more: float) -> Row:
    """A row that reports can read."""
    measured = {f"test_{metric}": value, f"early_stop_test_{metric}": value}
    where = {"study": f"synaptic_pruning_{file}", "arm": arm, "round": index, "rounds": last, "density": density}
    return where | {"train_steps": 0, "early_stop_step": 0} | measured | more


if __name__ == "__main__":
    main(sys.argv[1:])
