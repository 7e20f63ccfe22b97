"""`lottery wandb`: sends runs, makes them from ledgers, saves a view. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lottery.foundations.errors import Refused, Said, describe
from lottery.store.ledger import LedgerError

EPILOG = """examples:
  lottery wandb sync runs/demo-digits-c50a07ad        sends what its runs hold and the server lacks
  lottery wandb backfill runs/demo-digits-c50a07ad    makes runs, offline, of cells that were not tracked
  lottery wandb workspace runs/demo-digits-c50a07ad   the view "arms compared", and a report with its verdicts
  lottery wandb ticket imp_r7.safetensors             sends a ticket file with the run that it comes from

A server other than W&B's default one is named by WANDB_BASE_URL, the key by WANDB_API_KEY or `wandb login`.
"""


def add_to(commands: Any) -> None:
    """Adds the command and its actions to a parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "wandb", help="send runs to W&B, and compare arms there", epilog=EPILOG, formatter_class=raw
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="send what runs hold and the server lacks, once")
    backfill = actions.add_parser("backfill", help="make runs from ledgers that were not tracked; sends nothing")
    workspace = actions.add_parser("workspace", help='save the view "arms compared" and a report')
    ticket = actions.add_parser("ticket", help="send a ticket file with the run that it comes from")
    for each in (sync, backfill, workspace):
        each.add_argument("runs", nargs="+", type=Path, help="studies' folders, or a folder of studies")
    ticket.add_argument("file", type=Path, help="what `lottery ticket export` has written")
    for each in (sync, ticket):
        each.add_argument("--timeout", type=_seconds, default=120.0, metavar="SECONDS", help="for one run (120)")
    for each in (sync, backfill, workspace, ticket):
        each.add_argument("--project", help="(default: the one that the cell was configured with)")
        each.add_argument("--entity", help="whose project (likewise)")
    workspace.add_argument(
        "--verdict", nargs=2, metavar=("EXPECTED", "NAME"), help="add the verdicts on the claims about NAME in a folder"
    )
    workspace.add_argument("--offline", action="store_true", help="print the view's specification, send nothing")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """One action; returns the exit code."""
    for path in getattr(args, "runs", ()):
        if not path.exists():
            raise FileNotFoundError(2, "no such folder", str(path))
    os.environ.setdefault("WANDB_SILENT", "true")
    return {"sync": _sync, "backfill": _backfill, "workspace": _workspace, "ticket": _ticket}[args.action](args)


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds above 0")
    return seconds


def _sync(args: argparse.Namespace) -> int:
    from lottery.commands.wandb.sync import sync

    return sync(args.runs, args.project, args.entity, args.timeout)


def _backfill(args: argparse.Namespace) -> int:
    from lottery.commands.wandb.cells import found, place, store_of, told
    from lottery.running.backfill import backfill
    from lottery.store import leases

    made = failed = 0
    for cell in found(args.runs):
        if leases.held(cell):
            print(f"{cell}: is running, and left out")
            continue
        try:
            of = told(cell)
            rounds = backfill(of, cell, store_of(cell), place(of, args.project, args.entity))
        except (Said, OSError) as error:
            print(f"{cell}: {describe(error)}")
            failed += 1
        else:
            made += bool(rounds)
            if rounds:
                print(f"{cell}: {rounds} rounds")
    if not made and not failed:
        print("nothing to make: every round of these ledgers is in a run")
    elif made:
        print(f"{made} runs, offline; `lottery wandb sync` sends them")
    return int(failed > 0)


def _workspace(args: argparse.Namespace) -> int:
    from lottery.commands.wandb.overview import save, specification

    failed = 0
    for study in _studies(args.runs):
        try:
            if args.offline:
                print(specification(study, args.project, args.entity))
            else:
                for what, url in save(study, args.project, args.entity, args.verdict).items():
                    print(f"{what:<10} {url}")
        except (LedgerError, OSError) as error:  # of this study; a server that does not answer ends it for all
            print(f"{study}: left out: {describe(error)}", file=sys.stderr)
            failed += 1
    return int(failed > 0)


def _ticket(args: argparse.Namespace) -> int:
    from lottery.commands.wandb.tickets import send

    print(f"{args.file}: {send(args.file, args.project, args.entity, args.timeout)}")
    return 0


def _studies(paths: Iterable[Path]) -> Iterable[Path]:
    """The folders of studies among some paths. Raises Refused if there is none with a finished round."""
    from lottery.commands.wandb.cells import found

    studies = list(dict.fromkeys(cell.parent.parent for cell in found(paths)))
    if not studies:
        raise Refused(f"{', '.join(map(str, paths))}: no finished round, so there is nothing to compare")
    return studies
