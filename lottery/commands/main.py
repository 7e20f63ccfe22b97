"""The command line. Each command imports what it needs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from difflib import get_close_matches
from pathlib import Path

import lottery
from lottery.commands.ticket.actions import add_to
from lottery.foundations.errors import Once, Refused, describe, nearby

_EPILOG = """examples:
  lottery run experiment=demo                                 a whole study, about a minute
  lottery run experiment=fc2019_lenet data=mnist --plan       what it would train, and for how long
  lottery run model=lenet_300_100 data=digits arm=imp seed=3,4 schedule.rounds=12 -m
  lottery status runs/demo-digits-*                           what runs, waits, failed, and is left to do
  lottery report runs/demo-digits-*                           table and figure again, from the ledgers
  lottery verdict experiments/frankle_carbin_2019             a paper's claims, and whether they hold
"""

_VERDICT = """NAME is what the column `results` of expected.csv says; RUNS, a folder of ledgers, a results file, or a
pattern of these in quotes. Then only the claims about NAME are judged, and by RUNS alone:

  lottery verdict experiments/frankle_carbin_2019
  lottery verdict experiments/frankle_carbin_2019 fashion_mnist='runs/fc2019_lenet-fashion_mnist-*'

A claim holds if all of the 95 % interval over seeds lies on the claimed side of the value, or within its tolerance;
it does not hold if none of it does; it is undecided if the interval straddles, or if there are fewer than two seeds.
Differences and ratios are taken within each seed; of ratios the mean is the geometric one.
"""

_RUN = """usage: lottery run [GROUP=NAME ...] [KEY=VALUE ...] [-m] [--plan]

Trains, prunes and rewinds until every cell asked for is in its ledger, then reports. The same command goes on
where it was interrupted, and trains nothing that is in the store.

  experiment=NAME     a recipe with its own sweep over arms and seeds; `lottery list experiment` names them
  model=NAME ...      any other group: `lottery list` names groups and what is in them
  KEY=VALUE           a setting; +KEY=VALUE adds one that the yaml lacks, ~KEY takes one out. Stable keys:
                        out store seed data.root data.batch_size data.val_size data.augment model._target_
                        optimizer.lr optimizer.decay optimizer.clip_norm budget.steps schedule.rounds
                        arm.rewind arm.parent stop.density stop.below_dense numerics.precision
                        numerics.sparse hardware.devices tracking.mode
                      durations are 500 or 500it (optimizer steps) or 2ep (epochs)
  arm=a,b seed=0,1 -m sweeps: one cell for each combination
  hydra.mode=RUN      one cell of an experiment: lottery run experiment=demo hydra.mode=RUN arm=imp seed=0
  --plan              trains nothing, but reads the data: what would be trained or reused, and for how long
  --cfg job           prints the configuration; --config-dir DIR adds a folder of yours; further flags: --hydra-help

"""


def main() -> None:
    """The `lottery` command: exits 0 if everything asked for was done, else says why in one sentence."""
    parser = argparse.ArgumentParser(
        prog="lottery",
        description="Lottery-ticket and pruning research: prune, rewind, train again; reproducible and resumable.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lottery {lottery.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a study or a cell; the arguments are Hydra overrides", add_help=False)
    run.add_argument("overrides", nargs=argparse.REMAINDER)
    listing = commands.add_parser("list", help="name every experiment, model, data set, criterion, arm, ...")
    listing.add_argument("group", nargs="?", help="only this group")
    listing.add_argument("--config-dir", action=Once, help="a folder of yours, as in `lottery run`")
    status = commands.add_parser("status", help="what became of each cell, here and in Slurm's queue")
    status.add_argument("runs", nargs="+", type=Path, help="studies' folders, or a folder of studies")
    status.add_argument("--all", action="store_true", help="show every cell, however many there are")
    report = commands.add_parser("report", help="make table and figure from ledgers alone")
    report.add_argument("runs", nargs="+", type=Path, help="folders that hold ledgers, or a report's results.csv")
    report.add_argument("--out", type=Path, help="where to write; a study's own folder if not given")
    verdict = commands.add_parser(
        "verdict",
        help="judge a paper's claims by what was measured",
        epilog=_VERDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verdict.add_argument("expected", type=Path, help="an expected.csv, or its folder with results files beside it")
    verdict.add_argument("runs", nargs="*", metavar="NAME=RUNS", help="judge these results of yours instead")
    overlap = commands.add_parser("overlap", help="what masks have in common between seeds and arms, beside chance")
    overlap.add_argument("study", type=Path, help="a study's folder; overlap.csv is written into it")
    add_to(commands)
    store = commands.add_parser("store", help="the trained phases on disk")
    store.add_argument("action", choices=("size", "gc"), help="gc removes what no ledger in --out needs")
    store.add_argument(
        "--out", type=Path, nargs="+", default=[Path("runs")], help="every folder of runs that uses it (default: runs)"
    )
    store.add_argument("--store", type=Path, help="the store (default: the first OUT's store)")
    argv = sys.argv[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own networks and criteria, named by import path, lie here
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if argv[:1] == ["run"]:  # the rest is Hydra's, flags included
            code = _run(argv[1:])
        else:
            args = parser.parse_args(argv)
            actions = {
                "list": _list,
                "status": _status,
                "report": _report,
                "verdict": _verdict,
                "overlap": _overlap,
                "ticket": _ticket,
                "store": _store,
            }
            code = actions[args.command](args)
    except KeyboardInterrupt as stop:
        what = "terminated" if isinstance(stop, _Terminated) else "interrupted"
        after = str(stop) or "nothing is lost: the same command goes on from the last checkpoint"
        print(f"\n{what}; {after}", file=sys.stderr)
        code = 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if wants_traceback:
            raise
        print(f"lottery: {describe(error)}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.exit(code)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _run(arguments: list[str]) -> int:
    if not arguments or {"--help", "-h"} & set(arguments):
        print(_RUN + _EPILOG, end="")
        return 0
    # argparse, which reads Hydra's flags, takes overrides before them only
    arguments = sorted(arguments, key=lambda word: word.startswith("-") or not ("=" in word or word.startswith("~")))
    if {"--cfg", "-c", "--hydra-help", "--info", "-i", "--shell-completion", "-sc"} & set(arguments):
        from lottery.running.launch import launch

        launch(arguments)
        return 0
    if "--plan" in arguments:
        from lottery.commands.plan import show
        from lottery.config.compose import cell_configs

        show(cell_configs([a for a in arguments if a != "--plan"]))
        return 0
    from lottery.commands.run import run

    return run(arguments)


def _status(args: argparse.Namespace) -> int:
    from lottery.commands.status import show

    print(show(args.runs, args.all))
    return 0


def _report(args: argparse.Namespace) -> int:
    for path in args.runs:
        if not path.exists():
            raise FileNotFoundError(2, "no such folder or results file", str(path))
    from lottery.commands.report import publish

    publish(args.runs, args.out)
    return 0


def _verdict(args: argparse.Namespace) -> int:
    from glob import glob

    from lottery.reports.verdicts import table, verdicts

    runs: dict[str, list[Path]] = {}
    for word in args.runs:
        name, equals, pattern = word.partition("=")
        if not (name and equals and pattern):
            raise Refused(f"{word} is not NAME=RUNS, like fashion_mnist=runs/fc2019_lenet-fashion_mnist-0a1b2c3d")
        # shells leave a pattern behind a = alone
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern))
        if not found:
            raise FileNotFoundError(2, "no such folder or results file", pattern)
        runs.setdefault(name, []).extend(map(Path, found))
    print(table(verdicts(args.expected, runs or None)), end="")
    return 0


def _ticket(args: argparse.Namespace) -> int:
    from lottery.commands.ticket.actions import main

    return main(args, _run)


def _overlap(args: argparse.Namespace) -> int:
    if not args.study.is_dir():
        raise FileNotFoundError(2, "no such folder", str(args.study))
    from lottery.reports.overlap import publish

    publish(args.study)
    return 0


def _list(args: argparse.Namespace) -> int:
    from lottery.config.groups import GROUPS, options

    sources = (args.config_dir,) if args.config_dir else ()
    if args.group and args.group not in GROUPS:
        groups = {option: group for group in GROUPS for option in options(group, sources)}
        if like := get_close_matches(args.group, groups, n=1):
            also = f"; `lottery list {groups[like[0]]}` has {like[0]}"
        else:
            also = ""
        raise Refused(f"{args.group}: there is no such group; {nearby(args.group, list(GROUPS))}{also}")
    for group in [args.group] if args.group else GROUPS:
        print(group)
        for name, sentence in options(group, sources).items():
            print(f"  {name:<16} {sentence}")
    return 0


def _store(args: argparse.Namespace) -> int:
    from lottery.store.entries import Store
    from lottery.store.ledger import needed

    root = args.store or args.out[0] / "store"
    if not root.is_dir():
        raise FileNotFoundError(2, "no such store", str(root))
    store = Store(root)
    if args.action == "gc":
        removed, freed, young = store.gc(needed(args.out))
        print(f"removed {removed} entries, {freed / 1e6:,.1f} MB")
        if young:
            print(f"{young} more are in no ledger, but younger than a day: a cell may be about to need them")
    print(f"{root}: {len(store.entries())} phases, {store.size() / 1e6:,.1f} MB")
    return 0
