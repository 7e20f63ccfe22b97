"""`lottery verdict`: a paper's claims, and whether the results support them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused

HELP = """NAME is what the column `results` of expected.csv says; RUNS, a folder of ledgers, a results file, or a
pattern of these in quotes. Then only the claims about NAME are judged, and by RUNS alone:

  lottery verdict experiments/frankle_carbin_2019
  lottery verdict experiments/frankle_carbin_2019 fashion_mnist='runs/fc2019_lenet-fashion_mnist-*'

A claim holds if all of the 95 % interval over seeds lies on the claimed side of the value, or within its tolerance;
it does not hold if none of it does; it is undecided if the interval straddles, or if there are fewer than two seeds.
Differences and ratios are taken within each seed; of ratios the mean is the geometric one.
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "verdict",
        help="judge a paper's claims by what was measured",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("expected", type=Path, help="an expected.csv, or its folder with results files beside it")
    parser.add_argument("runs", nargs="*", metavar="NAME=RUNS", help="judge these results of yours instead")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Prints the table of verdicts."""
    from lottery.reports.verdicts import table, verdicts

    print(table(verdicts(args.expected, named(args.runs) or None)), end="")
    return 0


def named(words: Iterable[str]) -> dict[str, list[Path]]:
    """Folders and files by the NAME of `NAME=RUNS`. Raises Refused, or FileNotFoundError where a pattern finds none."""
    from glob import glob

    runs: dict[str, list[Path]] = {}
    for word in words:
        name, equals, pattern = word.partition("=")
        if not (name and equals and pattern):
            raise Refused(f"{word} is not NAME=RUNS, like fashion_mnist=runs/fc2019_lenet-fashion_mnist-0a1b2c3d")
        # a shell does not expand a pattern that follows a =
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern))
        if not found:
            raise FileNotFoundError(2, "no such folder or results file", pattern)
        runs.setdefault(name, []).extend(map(Path, found))
    return runs
