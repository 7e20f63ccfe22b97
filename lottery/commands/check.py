"""`lottery check`: a user's own criteria, scopes, schedules, arms, data and so on, against their contracts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from lottery.foundations.errors import Once, Refused, describe


def add_to(commands: Any) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser("check", help="try every criterion, scope, schedule, arm, data set, ... of yours")
    parser.add_argument("overrides", nargs="*", help="settings that they are tried with, as in `lottery run`")
    parser.add_argument("--config-dir", required=True, action=Once, help="a folder of yours, as in `lottery run`")
    parser.set_defaults(call=main)


def main(args: argparse.Namespace) -> int:
    """Prints a line for each option of the folder; 1 if one of them breaks its contract. Raises Refused for none."""
    from lottery.config.groups import GROUPS, own_options

    found = [(group, name) for group in GROUPS for name in own_options(group, args.config_dir)]
    if not found:
        raise Refused(f"--config-dir {args.config_dir}: has no yaml in a folder named like a group of `lottery list`")
    broken = False
    for group, name in found:
        faults = list(_faults(group, name, args))
        broken = broken or bool(faults)
        for line in faults or ["ok"]:
            print(f"{group:<10} {name:<20} {line}", flush=True)
    return int(broken)


def _faults(group: str, name: str, args: argparse.Namespace) -> Iterator[str]:
    """How an option breaks its contract, as sentences; what a study would be refused for comes first."""
    from lottery.config.build import build
    from lottery.config.check import check
    from lottery.config.check_contracts import faults
    from lottery.config.compose import cell_configs

    try:
        [config, *_] = cell_configs(["--config-dir", args.config_dir, f"{group}={name}", *args.overrides])
        cell = build(config)
        check(cell)
        yield from faults(group, config, cell)
    except (Exception, SystemExit) as error:  # a user's code may raise anything, and the other options are still tried
        yield " ".join(describe(error).split())
