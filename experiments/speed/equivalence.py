"""Equivalence of sparse and dense training: accuracies paired over seeds, two one-sided tests."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from scipy.stats import t

from experiments.speed.cells import lenet, quietly
from experiments.speed.rows import Row
from lottery.store.folder import NAME
from lottery.store.ledger import Ledger

SEEDS, STEPS, DENSITY, MARGIN = 5, 2000, 0.036, 0.003


def measure() -> Iterator[Row]:
    """A LeNet pruned once; both variants share the dense training and so the mask."""
    with TemporaryDirectory() as name:
        both = [[accuracy(Path(name), seed, sparse) for sparse in ("auto", "off")] for seed in range(SEEDS)]
    differences = [auto - off for auto, off in both]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / SEEDS**0.5
    reach = float(t.ppf(0.95, SEEDS - 1)) * error  # two one-sided tests at 5 % equal a 90 % interval
    inside = abs(mean) + reach < MARGIN
    yield Row(
        f"LeNet at density {DENSITY:.1%}: test accuracy after {STEPS:,} steps, auto minus off, mean [90 % interval]",
        f"{mean:+.2%} [{mean - reach:+.2%}, {mean + reach:+.2%}], {SEEDS}",
        f"within {MARGIN:.1%}",
        "met" if inside else "missed",
    )


def accuracy(folder: Path, seed: int, sparse: str) -> float:
    """Test accuracy after the pruned round."""
    job = lenet(
        folder, f"seed={seed}", f"numerics.sparse={sparse}", f"budget.steps={STEPS}", "budget.evaluate=1000it",
        "schedule.rounds=1", f"schedule.keep={DENSITY}", "scope=everywhere", "tracking.mode=disabled",
    )  # fmt: skip
    quietly(job)
    return float(Ledger(job.folder / NAME).lines()[-1]["test_accuracy"])
