"""`lottery overlap`: how much the masks of a study have in common."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

FILE = "overlap.csv"


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    help = "what masks have in common between seeds and arms, beside chance"
    parser = commands.add_parser("overlap", help=help)
    parser.add_argument("study", type=Path, help=f"a study's folder; {FILE} is written into it")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Compares the masks of one study."""
    if not args.study.is_dir():
        raise FileNotFoundError(2, "no such folder", str(args.study))
    publish(args.study)
    return 0


def publish(study: Path) -> None:
    """Writes every pair into the study's folder and prints the mean over pairs of each kind."""
    from lottery.reports.overlap import compare
    from lottery.reports.statistics import mean_interval
    from lottery.reports.tables import table

    frame = compare(study)
    rows = [["round", "density", "between", "pairs", "in common", "by chance"]]
    for (index, what), part in frame.groupby(["round", "between"], sort=True):
        mean, half = mean_interval(part["shared"])
        independent = math.isfinite(half) and (part["arm"] != part["other_arm"]).all()  # one pair a seed
        common = f"{mean:.4f}" + (f" ± {half:.4f}" if independent else "")
        density, chance = f"{part['density'].mean():.2%}", f"{part['chance'].mean():.4f}"
        rows.append([str(index), density, str(what), str(len(part)), common, chance])
    print("Kept weights in common over those of the sparser mask; an interval where each pair has a seed of its own.\n")
    print("\n".join(table(rows)))
    frame.to_csv(study / FILE, index=False)
    print(f"\nframe   {study / FILE}")
