"""What the study measured beside the closed forms, as Markdown: `python -m experiments.synaptic_pruning.measured`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from experiments.synaptic_pruning.closed_forms import DELETIONS, Deletion, grown, snr, strength
from lottery.reports.intervals import mean_interval

HERE = Path(__file__).parent
Form = Callable[[Deletion, float], float]
NAMES = ("results", "strength", "growth", "recall")


def main() -> None:
    """Prints the tables of the results beside this file."""
    print(tables(HERE))


def tables(folder: Path) -> str:
    """The six tables, each under the name of its file and of what is measured."""
    frames = {name: pd.read_csv(folder / f"{name}.csv") for name in NAMES}
    arms = list(dict.fromkeys(frames["recall"]["arm"]))
    shown = {
        "`results`, squared signal-to-noise ratio": by_density(
            frames["results"], "test_snr", [*DELETIONS, "weakened"], snr
        ),
        "`strength`, squared signal-to-noise ratio and total strength": by_strength(frames["strength"]),
        "`growth`, squared signal-to-noise ratio": by_density(frames["growth"], "test_snr", DELETIONS, grown),
        "`recall`, squared signal-to-noise ratio": by_density(frames["recall"], "snr", DELETIONS, snr),
        "`recall`, squared correlation of synapses": by_density(frames["recall"], "correlation", DELETIONS, snr),
        "`recall`, overlap": by_density(frames["recall"], "test_overlap", arms),
    }
    return "\n\n".join(f"{title}:\n\n{rows}" for title, rows in shown.items())


def by_density(frame: pd.DataFrame, column: str, arms: Sequence[str], form: Form | None = None) -> str:
    """A row per density: each arm's mean and half-width of its 95 % interval, behind a closed form if there is one."""
    rows = [["density", *arms]]
    for _, cells in frame[frame["round"] > 0].groupby("round"):
        rows.append([f"{cells['density'].mean():.2g}"])
        for arm in arms:
            one = cells[cells["arm"] == arm]
            deletion = cast(Deletion, "compressed" if arm == "weakened" else arm)
            before = f"{form(deletion, float(one['density'].mean())):.4f}: " if form else ""
            rows[-1].append(before + with_interval(one[column]))
    return markdown(rows)


def by_strength(frame: pd.DataFrame) -> str:
    """A row per total strength, with each arm's density, closed form and measured ratio, and its measured strength."""
    arms = DELETIONS[1:]
    rows = [["strength", *(f"{arm}{what}" for arm in arms for what in ("", ", strength"))]]
    for _, cells in frame[frame["round"] > 0].groupby("round"):
        densities = {arm: float(cells[cells["arm"] == arm]["density"].mean()) for arm in arms}
        rows.append([f"{strength('compressed', densities['compressed']):.1f}"])
        for arm, density in densities.items():
            one = cells[cells["arm"] == arm]
            ratio = f"at {density:.3f} {snr(arm, density):.4f}: {with_interval(one['test_snr'])}"
            rows[-1] += [ratio, with_interval(one["strength"])]
    return markdown(rows)


def with_interval(values: pd.Series) -> str:
    """Mean and half-width of the 95 % interval over seeds.

    >>> with_interval(pd.Series([0.1, 0.2, 0.3]))
    '0.2000 ± 0.2484'
    """
    mean, half = mean_interval(values)
    return f"{mean:.4f} ± {half:.4f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table, the first as its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
