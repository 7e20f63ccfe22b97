"""`lottery store`: how large a store is, and the removal of phases that no ledger needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("store", help="the trained phases on disk")
    parser.add_argument("action", choices=("size", "gc"), help="gc removes what no ledger in --out needs")
    parser.add_argument(
        "--out", type=Path, nargs="+", default=[Path("runs")], help="every folder of runs that uses it (default: runs)"
    )
    parser.add_argument("--store", type=Path, help="the store (default: the first OUT's store)")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Cleans a store up if that is asked for, and prints its size."""
    from lottery.store.collection import collect, size
    from lottery.store.entries import Store
    from lottery.store.ledger import needed

    root = args.store or args.out[0] / "store"
    if not root.is_dir():
        raise FileNotFoundError(2, "no such store", str(root))
    store = Store(root)
    if args.action == "gc":
        removed, freed, young = collect(store, needed(args.out))
        print(f"removed {removed} entries, {freed / 1e6:,.1f} MB")
        if young:
            print(f"{young} more are in no ledger, but younger than a day: a cell may be about to need them")
    print(f"{root}: {len(store.entries())} phases, {size(root) / 1e6:,.1f} MB")
    return 0
